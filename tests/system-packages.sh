#!/bin/sh
# Installs what the integration tests run against: a real OpenSSH server, its client, rsync.
# Does nothing where they are present. Needs apt-get, and root or sudo without a password.
set -eu

PATH=$PATH:/usr/sbin # where sshd lives, not on every user's PATH
missing=
command -v sshd >/dev/null || missing="$missing openssh-server"
command -v ssh >/dev/null && command -v ssh-keygen >/dev/null || missing="$missing openssh-client"
command -v rsync >/dev/null || missing="$missing rsync"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    sudo=
elif sudo -n true 2>/dev/null; then
    sudo='sudo -n'
else
    sudo=none
fi
if [ "$sudo" = none ] || ! command -v apt-get >/dev/null; then
    echo "The integration tests need these packages, please install them:$missing" >&2
    exit 1
fi
# The package would start a server of the machine's own; the tests start a private one.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
$sudo apt-get update -q
# shellcheck disable=SC2086 # a list of words, on purpose
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
