//go:build tools

// The generators, named here so that go.sum pins them as it pins what the client imports.
package main

import (
	_ "google.golang.org/grpc/cmd/protoc-gen-go-grpc"
	_ "google.golang.org/protobuf/cmd/protoc-gen-go"
)
