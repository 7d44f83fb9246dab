package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	bursar "bursar.invalid/clients/go/bursarv1"
)

// How long one scenario may take; the first also waits for the sidecar to begin to serve.
const deadline = 60 * time.Second

// One promise and the calls that prove it.
type scenario struct {
	promise string
	prove   func(context.Context, *sidecar) error
}

// A sidecar and a tenant of this scenario's own, so that scenarios do not meet in a counter.
type sidecar struct {
	bursar.QuotaServiceClient
	health grpc_health_v1.HealthClient
	tenant string
}

func run(target string, scenario scenario) error {
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return scenario.prove(ctx, &sidecar{
		QuotaServiceClient: bursar.NewQuotaServiceClient(connection),
		health:             grpc_health_v1.NewHealthClient(connection),
		tenant:             unique("tenant"),
	})
}

// A name that no run before has used.
func unique(prefix string) string {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic(err)
	}
	return prefix + "-" + hex.EncodeToString(random[:])
}

// A request for input and output tokens under a new id.
func (sidecar *sidecar) request(input, output uint64) *bursar.ReserveRequest {
	return &bursar.ReserveRequest{
		ReservationId:   unique("go"),
		Model:           "openai/gpt-4.1-mini",
		Labels:          map[string]string{"tenant": sidecar.tenant},
		Input:           &bursar.ReserveRequest_InputTokens{InputTokens: input},
		OutputTokensMax: output,
	}
}

// Reserves and gives the grant; a denial is an error.
func (sidecar *sidecar) granted(ctx context.Context, request *bursar.ReserveRequest) (*bursar.Grant, error) {
	response, err := sidecar.Reserve(ctx, request)
	if err != nil {
		return nil, err
	}
	if response.GetGrant() == nil {
		return nil, fmt.Errorf("not granted: %v", response)
	}
	return response.GetGrant(), nil
}

// A commit of a call that completed.
func completed(id string, input, output uint64) *bursar.CommitRequest {
	return &bursar.CommitRequest{
		ReservationId: id,
		Outcome:       bursar.Outcome_OUTCOME_COMPLETED,
		Lines: []*bursar.Line{
			{Meter: bursar.Meter_METER_INPUT, Tokens: input},
			{Meter: bursar.Meter_METER_OUTPUT, Tokens: output},
		},
	}
}

// Checks that a call failed with this status and with a reason in bursar's domain; gives the details' fields.
func refused(err error, code codes.Code) ([]string, error) {
	answer, ok := status.FromError(err)
	if !ok || answer.Code() != code {
		return nil, fmt.Errorf("wanted %v, got %v", code, err)
	}
	var fields []string
	named := false
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			named = detail.Domain == "bursar" && detail.Reason != ""
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	if !named {
		return nil, fmt.Errorf("%v without an ErrorInfo of bursar: %v", code, answer)
	}
	return fields, nil
}

// Says what was wanted where it is not what was got.
func wanted(what string, want, got any) error {
	if want == got {
		return nil
	}
	return fmt.Errorf("%s: wanted %v, got %v", what, want, got)
}

// The first of some errors.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
