# shellcheck shell=bash
# How the scripts speak: one calm line for a step, indented detail, and one clear line for a failure.
# Sourced by every script here; sets ROOT to the top of the repository.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ROOT

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' GREEN='' RED='' PLAIN=''
fi

# A step that begins.
step() { printf '%s▸ %s%s\n' "$BOLD" "$*" "$PLAIN"; }

# What a step found or did.
detail() { printf '  %s%s%s\n' "$DIM" "$*" "$PLAIN"; }

# A step that succeeded.
done_well() { printf '%s✓ %s%s\n' "$GREEN" "$*" "$PLAIN"; }

# Something the reader should know, which stops nothing.
notice() { printf '%s! %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }

# The end, and why.
fail() {
    printf '%s✗ %s%s\n' "$RED" "$*" "$PLAIN" >&2
    exit 1
}

# Whether a program can be found, also in the places a user's PATH may leave out.
have() { PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin command -v "$1" >/dev/null 2>&1; }

# Prints the leading comment of the calling script as its help.
help_of() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$1"; }
