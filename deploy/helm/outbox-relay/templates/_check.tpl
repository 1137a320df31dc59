{{/* What the schema of the values cannot say. Each message has the value's name. */}}
{{- define "relay.check" -}}
{{- include "relay.checkNames" . -}}
{{- include "relay.checkSources" . -}}
{{- include "relay.checkLogin" . -}}
{{- include "relay.checkScaling" . -}}
{{- include "relay.checkNetworkPolicy" . -}}
{{- end -}}

{{- define "relay.checkNames" -}}
{{- if regexMatch "^[0-9]" (include "relay.fullname" .) -}}
{{- fail (printf "fullnameOverride is needed: %s begins with a digit, and a Service may not" (include "relay.fullname" .)) -}}
{{- end -}}
{{- range $name, $_ := .Values.podLabels -}}
{{- if or (hasKey (include "relay.labels" $ | fromYaml) $name) (eq $name "app.kubernetes.io/component") -}}
{{- fail (printf "podLabels has %s, which the chart sets: others select pods by it" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (default dict .Values.podAnnotations) "checksum/settings" -}}
{{- fail "podAnnotations has checksum/settings, which the chart sets" -}}
{{- end -}}
{{- end -}}

{{/* Where each setting comes from that may come from a Secret, a command or elsewhere: its name, and the values with it. */}}
{{- define "relay.sources" -}}
{{- $found := dict -}}
{{- range $name, $_ := .Values.secrets -}}
{{- $_ := set $found $name (list (printf "secrets.%s" $name)) -}}
{{- end -}}
{{- range $name, $_ := .Values.settings -}}
{{- if hasSuffix "_COMMAND" $name -}}
{{- $base := trimSuffix "_COMMAND" $name -}}
{{- $_ := set $found $base (append (default list (get $found $base)) (printf "settings.%s" $name)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- $base := .name -}}
{{- if hasPrefix "RELAY_" $base -}}{{- $base = $base | trimSuffix "_FILE" | trimSuffix "_COMMAND" -}}{{- end -}}
{{- $_ := set $found $base (append (default list (get $found $base)) (printf "extraEnv %s" .name)) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- define "relay.checkSources" -}}
{{- $sources := include "relay.sources" . | fromYaml -}}
{{- if not (or (hasKey $sources "RELAY_POSTGRES_DSN") (hasKey $sources "RELAY_CONFIG")) -}}
{{- fail "secrets.RELAY_POSTGRES_DSN is missing: name the Secret and the key that have the DSN, as {name: outbox-relay, key: postgres-dsn}" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if or (hasKey $.Values.settings .name) (hasKey $.Values.files .name) -}}
{{- fail (printf "extraEnv has %s, which settings or files have as well: keep one of them" .name) -}}
{{- end -}}
{{- if has .name (list "RELAY_REPLICA_NAME" "RELAY_HTTP_PORT" "RELAY_HTTP_HOST") -}}
{{- fail (printf "extraEnv has %s, which the chart knows: probes and Services depend on it" .name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $places := $sources -}}
{{- if gt (len $places) 1 -}}
{{- fail (printf "%s are given: keep one of them" (join " and " $places)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $from := .Values.files -}}
{{- if eq (empty $from.secret) (empty $from.configMap) -}}
{{- fail (printf "files.%s needs either secret or configMap: where is the file?" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* As relay/settings/kafka_security.py has it. */}}
{{- define "relay.checkLogin" -}}
{{- $sources := include "relay.sources" . | fromYaml -}}
{{- $needed := list -}}
{{- if hasPrefix "SASL_" (default "" .Values.settings.RELAY_KAFKA_SECURITY_PROTOCOL) -}}
{{- $mechanism := default "" .Values.settings.RELAY_KAFKA_SASL_MECHANISM -}}
{{- $provider := default "" .Values.settings.RELAY_KAFKA_OAUTH_PROVIDER -}}
{{- if not $mechanism -}}
{{- $needed = list "settings.RELAY_KAFKA_SASL_MECHANISM" -}}
{{- else if ne $mechanism "OAUTHBEARER" -}}
{{- $needed = list "settings.RELAY_KAFKA_SASL_USERNAME" "secrets.RELAY_KAFKA_SASL_PASSWORD" -}}
{{- else if not $provider -}}
{{- $needed = list "settings.RELAY_KAFKA_OAUTH_PROVIDER" -}}
{{- else if eq $provider "token" -}}
{{- $needed = list "secrets.RELAY_KAFKA_OAUTH_TOKEN" -}}
{{- else if eq $provider "oidc" -}}
{{- $needed = list "settings.RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT" "settings.RELAY_KAFKA_OAUTH_CLIENT_ID" "secrets.RELAY_KAFKA_OAUTH_CLIENT_SECRET" -}}
{{- end -}}
{{- end -}}
{{- range $needed -}}
{{- $name := trimPrefix "settings." . | trimPrefix "secrets." -}}
{{- if not (or (hasKey $sources $name) (hasKey $.Values.settings $name) (hasKey $sources "RELAY_CONFIG")) -}}
{{- fail (printf "%s is missing: the login to Kafka that settings.RELAY_KAFKA_SECURITY_PROTOCOL asks for needs it" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "relay.checkScaling" -}}
{{- if .Values.keda.enabled -}}
{{- if not (kindIs "invalid" .Values.replicas) -}}
{{- fail "replicas must be null while keda.enabled is true: both would set the number of replicas" -}}
{{- end -}}
{{- if gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas) -}}
{{- fail "keda.minReplicas is more than keda.maxReplicas" -}}
{{- end -}}
{{- if not .Values.keda.secret -}}
{{- $sources := include "relay.sources" . | fromYaml -}}
{{- if not (hasKey .Values.secrets "RELAY_POSTGRES_DSN") -}}
{{- fail "keda.secret is missing: name the Secret and the key that have a DSN for KEDA" -}}
{{- end -}}
{{- if hasKey $sources "RELAY_POSTGRES_PASSWORD" -}}
{{- fail "keda.secret is missing: KEDA cannot use the relay's DSN, which has no password" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "relay.checkNetworkPolicy" -}}
{{- if .Values.networkPolicy.enabled -}}
{{- if and .Values.podMonitor.enabled (empty .Values.networkPolicy.metricsFrom) -}}
{{- fail "networkPolicy.metricsFrom is empty: nobody could read the metrics that podMonitor asks for" -}}
{{- end -}}
{{- $open := list -}}
{{- range concat (list .Values.networkPolicy.postgres .Values.networkPolicy.kafka) .Values.networkPolicy.more -}}
{{- range .ports -}}{{- $open = append $open (toString (int64 .)) -}}{{- end -}}
{{- end -}}
{{- range splitList "," .Values.settings.RELAY_KAFKA_BOOTSTRAP_SERVERS -}}
{{- $port := regexFind "[0-9]+$" (trim .) -}}
{{- if and $port (not (has $port $open)) -}}
{{- fail (printf "networkPolicy.kafka.ports has no %s, which settings.RELAY_KAFKA_BOOTSTRAP_SERVERS names: the brokers could not be reached" $port) -}}
{{- end -}}
{{- end -}}
{{- with .Values.settings.RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- if not (has $port $open) -}}
{{- fail (printf "networkPolicy.more has no %s, the port of settings.RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT: no token could be had" $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The variables of the replicas that are not the Job's, because migrate.secrets has the login of another user. */}}
{{- define "relay.leftToReplicas" -}}
{{- $bases := keys .Values.migrate.secrets -}}
{{- if hasKey .Values.migrate.secrets "RELAY_POSTGRES_DSN" -}}
{{- $bases = append $bases "RELAY_POSTGRES_PASSWORD" -}}
{{- end -}}
{{- $left := dict -}}
{{- range $base := $bases -}}
{{- range list "" "_FILE" "_COMMAND" -}}{{- $_ := set $left (printf "%s%s" $base .) true -}}{{- end -}}
{{- end -}}
{{- toYaml $left -}}
{{- end -}}

{{- define "relay.migrateSecrets" -}}
{{- $left := include "relay.leftToReplicas" . | fromYaml -}}
{{- $found := dict -}}
{{- range $name, $from := .Values.secrets -}}
{{- if not (hasKey $left $name) -}}{{- $_ := set $found $name $from -}}{{- end -}}
{{- end -}}
{{- range $name, $from := .Values.migrate.secrets -}}{{- $_ := set $found $name $from -}}{{- end -}}
{{- toYaml $found -}}
{{- end -}}
