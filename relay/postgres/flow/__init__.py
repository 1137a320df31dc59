"""The statements of a running replica, one class per connection: the adapters of the stages' ports."""
