#!/bin/sh
# Builds an image, replaces, restarts and kills containers in every way that the guide has, under load, and prints a table. Fails if
# anything was lost but what was in flight at a crash. It needs Docker and cargo, and leaves nothing behind.
set -eu
cd "$(dirname "$0")/../.."
cargo build --quiet --features cli --bins --example http
exec cargo test --quiet --features cli --test containers -- --ignored --nocapture
