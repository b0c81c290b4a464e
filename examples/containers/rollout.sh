#!/bin/sh
# Replaces the running container of a service by a new one, and says with its exit code whether that went well: 0 only when the new
# container serves. Otherwise the old one serves on, and the new one is removed; a container that was there before never is.
#
#     rollout.sh OLD NEW --network host --volume socket:/run/app app:2        # what follows the names is for `docker run`
#
# `handoff upgrade` in the old container waits until the new one serves, or has failed: it is the gate that a health check is not.
# TIMEOUT is how long the new one may take, 60s where nothing is said.
set -u

old=$1 new=$2
shift 2

if docker container inspect "$new" >/dev/null 2>&1; then
    echo "$0: there is a container $new already: remove it first, or choose another name" >&2
    exit 1
fi
told=$(mktemp -d)
trap 'rm -rf "$told"' EXIT
{
    docker exec "$old" /handoff upgrade --timeout "${TIMEOUT:-60s}"
    echo $? >"$told/code"
} | while read -r line; do
    echo "$line"
    # Not before: a container that asks for the service first is none that this upgrade waits for.
    case $line in
    *awaited*) docker run --detach --name "$new" "$@" >"$told/new" ;;
    esac
done
if [ ! -e "$told/new" ]; then
    echo "$0: $old did not wait for another container, and none was started" >&2
    exit 1
fi
if [ "$(cat "$told/code")" = 0 ]; then
    exit 0
fi
# Nothing, where docker has not made one.
docker rm --force "$new" >/dev/null 2>&1
exit 1
