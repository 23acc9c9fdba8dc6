#!/bin/sh
# Prints a server's ACL file, made of the users that it reads: sh deploy/acl.sh < deploy/users.acl
# PERDURE_WORLD: the world's name (*: every world of this server). PERDURE_REDIS_PASSWORD_GATEWAY, _SHARD, _COORDINATOR and
# _OPERATOR: passwords, which go into the file as hashes.
set -eu
case "${PERDURE_WORLD:=main}" in
  '*') ;;
  *[!A-Za-z0-9_.-]*) echo "acl.sh: PERDURE_WORLD is a name of the characters A-Z a-z 0-9 _ . -, or *" >&2; exit 2 ;;
esac
hash() {
  [ -n "$2" ] || { echo "acl.sh: set PERDURE_REDIS_PASSWORD_$1 to a password of its own" >&2; exit 2; }
  printf %s "$2" | sha256sum | cut -d ' ' -f 1
}
gateway=$(hash GATEWAY "${PERDURE_REDIS_PASSWORD_GATEWAY:-}")
shard=$(hash SHARD "${PERDURE_REDIS_PASSWORD_SHARD:-}")
coordinator=$(hash COORDINATOR "${PERDURE_REDIS_PASSWORD_COORDINATOR:-}")
operator=$(hash OPERATOR "${PERDURE_REDIS_PASSWORD_OPERATOR:-}")
awk '/^[ \t]*(#|$)/ {next} /^user / {if (line) print line; line = $0; next} {sub(/^[ \t]+/, ""); line = line " " $0} END {print line}' |
  sed -e "s/<WORLD>/perdure:{$PERDURE_WORLD}/g" -e "s/<GATEWAY>/$gateway/" -e "s/<SHARD>/$shard/" \
    -e "s/<COORDINATOR>/$coordinator/" -e "s/<OPERATOR>/$operator/"
