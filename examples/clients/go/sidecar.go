package main

import (
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Every call may be repeated, because its id is the caller's: so let gRPC repeat it while the sidecar restarts.
const serviceConfig = `{"methodConfig": [{
	"name": [{"service": "bursar.v1.QuotaService"}],
	"waitForReady": true,
	"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s",
		"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// connect makes a connection that is opened by its first call, over TCP or (unix:) a socket.
func connect(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(serviceConfig))
}

// reason is the name that bursar gave the reason; empty: the call did not come as far as an answer.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, isInfo := detail.(*errdetails.ErrorInfo); isInfo && info.Domain == "bursar" {
			return info.Reason
		}
	}
	return ""
}

// told is the reason, and for a person what was wrong.
func told(err error) string {
	name := reason(err)
	if name == "" {
		name = "NO_ANSWER"
	}
	return name + ": " + status.Convert(err).Message()
}

func environment(name, otherwise string) string {
	if value, isSet := os.LookupEnv(name); isSet {
		return value
	}
	return otherwise
}
