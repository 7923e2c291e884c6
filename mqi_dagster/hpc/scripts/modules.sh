module_command() { # a job's shell is no login shell, and most sites define the command only there
  command -v module >/dev/null && return
  # shellcheck disable=SC1091
  [ ! -r /etc/profile ] || . /etc/profile
  umask 077
}
