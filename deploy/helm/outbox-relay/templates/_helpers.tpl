{{- define "relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimAll "-" -}}
{{- end -}}

{{/* A release may have dots in its name, and a Service may not. */}}
{{- define "relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "relay.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 50 | trimAll "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "relay.name" .) | replace "." "-" | trunc 50 | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{/* A Job's name becomes a label of its pods, which has at most 63 characters. */}}
{{- define "relay.migrateName" -}}
{{- $end := printf "-migrate-%s" (.Chart.AppVersion | replace "." "-" | replace "+" "-" | lower) -}}
{{- printf "%s%s" (include "relay.fullname" . | trunc (int (sub 63 (len $end))) | trimAll "-") $end -}}
{{- end -}}

{{- define "relay.selector" -}}
app.kubernetes.io/name: {{ include "relay.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "relay.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A value as the text of a variable: Helm reads 33554432 as 3.3554432e+07. */}}
{{- define "relay.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "relay.settings" -}}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "relay.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* The folder where a secret or a file of a setting is mounted: a folder each, because whole mounts follow rotations. */}}
{{- define "relay.folder" -}}
/run/outbox-relay/{{ . | lower | trimPrefix "relay_" | replace "_" "-" }}
{{- end -}}

{{- define "relay.volume" -}}
{{ . | lower | trimPrefix "relay_" | replace "_" "-" }}
{{- end -}}

{{- define "relay.secretEnv" -}}
{{- range $name, $from := . }}
- name: {{ $name }}_FILE
  value: {{ include "relay.folder" $name }}/{{ $from.key }}
{{- end }}
{{- end -}}

{{- define "relay.fileEnv" -}}
{{- range $name, $from := . }}
- name: {{ $name }}
  value: {{ include "relay.folder" $name }}/{{ $from.key }}
{{- end }}
{{- end -}}

{{- define "relay.mounts" -}}
{{- range $name, $from := . }}
- name: {{ include "relay.volume" $name }}
  mountPath: {{ include "relay.folder" $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "relay.secretVolumes" -}}
{{- range $name, $from := . }}
- name: {{ include "relay.volume" $name }}
  secret:
    secretName: {{ $from.name | quote }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "relay.fileVolumes" -}}
{{- range $name, $from := . }}
- name: {{ include "relay.volume" $name }}
{{- if $from.secret }}
  secret:
    secretName: {{ $from.secret | quote }}
    defaultMode: 0440
{{- else }}
  configMap:
    name: {{ $from.configMap | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "relay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
