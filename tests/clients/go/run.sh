#!/usr/bin/env bash
# A client of the sidecar in Go, written from the contract alone: over the socket, then over TCP.
#
# usage: run.sh [--target TARGET]...    without a target it starts `bursar serve` itself; targets need policy.yaml in force
# `python` on PATH has grpcio-tools, and `bursar` is there too; BURSAR_PYTHON names another Python that has both.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
proto=$(cd ../../../proto && pwd)
if [ -n "${BURSAR_PYTHON:-}" ]; then PATH=$(dirname "$BURSAR_PYTHON"):$PATH; fi
work=$(mktemp -d)
sidecar=

finish() {
    local status=$?
    if [ -n "$sidecar" ] && kill -TERM "$sidecar" 2>/dev/null; then wait "$sidecar" || status=$?; fi
    if [ "$status" != 0 ] && [ -e "$work/serve.log" ]; then
        printf '%s\n' '--- what the sidecar said'
        cat "$work/serve.log"
    fi >&2
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

install_go() {
    if command -v go >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        printf 'error: go is not on PATH\nhint: install Go 1.19 or later, or run as root where apt-get can\n' >&2
        exit 1
    fi
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y golang-go >/dev/null
}

generate() {
    mkdir "$work/bin"
    go build -o "$work/bin" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
    rm -rf bursarv1
    local package=bursar/v1/quota.proto=bursar.invalid/clients/go/bursarv1 module=bursar.invalid/clients/go
    PATH=$work/bin:$PATH python -m grpc_tools.protoc -I"$proto" \
        --go_out=. --go_opt=module=$module,M$package --go-grpc_out=. --go-grpc_opt=module=$module,M$package \
        bursar/v1/quota.proto
}

# Starts a sidecar on free ports; the one line it prints when it serves has them.
serve() {
    mkfifo "$work/ready"
    bursar serve --json --policy policy.yaml --data "$work/data" --socket "$work/run/bursar.sock" \
        --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 \
        >"$work/ready" 2>"$work/serve.log" &
    sidecar=$!
    # Held open to the end: the sidecar must not meet a closed pipe.
    exec 3<"$work/ready"
    local line listen
    read -r line <&3 || { printf 'error: the sidecar did not start\n' >&2; exit 1; }
    listen=$(python -c 'import json, sys; print(json.loads(sys.argv[1])["listen"])' "$line")
    targets=(--target "unix:$work/run/bursar.sock" --target "$listen")
}

install_go
generate
unformatted=$(gofmt -l ./*.go)
if [ -n "$unformatted" ]; then
    printf 'error: not formatted: %s\nhint: run gofmt -w\n' "$unformatted" >&2
    exit 1
fi
go vet .
go build -o "$work/client" .
targets=("$@")
if [ $# = 0 ]; then serve; fi
"$work/client" "${targets[@]}"
