// Chat asks a model one question within a budget: reserve, stream the answer, commit what was used.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/chat/gen/bursarv1"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

//go:generate buf generate

const (
	model = "openai/gpt-4.1-mini"

	exitNo        = 1
	exitWrong     = 2
	exitUndecided = 3

	settleWithin = 5 * time.Second
)

// Every call may be repeated, because its id is the caller's: so let gRPC repeat it while the sidecar restarts.
const serviceConfig = `{"methodConfig": [{
	"name": [{"service": "bursar.v1.QuotaService"}],
	"waitForReady": true,
	"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s",
		"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Print("usage: chat QUESTION\nBURSAR_TARGET says where the sidecar is: unix:///run/bursar/bursar.sock or 127.0.0.1:7420")
		os.Exit(exitWrong)
	}
	os.Exit(run(os.Args[1]))
}

func run(question string) int {
	target := os.Getenv("BURSAR_TARGET")
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		log.Printf("error: BURSAR_TARGET: %v", err)
		return exitWrong
	}
	defer connection.Close()
	quota := bursarv1.NewQuotaServiceClient(connection)

	grant, code := reserve(quota, question)
	if grant == nil {
		return code
	}
	log.Printf("granted: %d tokens in, %d out", grant.InputTokens, grant.OutputTokensGranted)

	answer, err := stream(question, grant.OutputTokensGranted, func(text string) { fmt.Print(text) })
	fmt.Println()
	var refused *refusedError
	if errors.As(err, &refused) {
		// The model did not run: give everything back.
		log.Printf("error: the model refused the call: %v", err)
		return release(quota, grant.ReservationId, refused.Error())
	}
	if err != nil {
		log.Printf("error: the answer was cut off: %v", err)
	}
	return commit(quota, grant.ReservationId, answer, err)
}

// reserve asks whether the call may run; without a grant it gives the exit code.
func reserve(quota bursarv1.QuotaServiceClient, question string) (*bursarv1.Grant, int) {
	// A call to a model waits for this, so it gets half a second.
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	least := uint64(20)
	response, err := quota.Reserve(ctx, &bursarv1.ReserveRequest{
		// The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
		ReservationId:   uuid.Must(uuid.NewV7()).String(),
		Model:           model,
		Labels:          map[string]string{"tenant": os.Getenv("TENANT"), "feature": "chat"},
		Input:           &bursarv1.ReserveRequest_InputText{InputText: question},
		OutputTokensMax: 200,
		OutputTokensMin: &least,
	})
	if err != nil {
		log.Printf("error: no decision: %v", err)
		return nil, exitUndecided
	}
	if denial := response.GetDenial(); denial != nil {
		log.Printf("denied: %s", denial.Hint)
		if denial.RetryAfterMs != nil {
			log.Printf("try again in %d ms", *denial.RetryAfterMs)
		}
		return nil, exitNo
	}
	return response.GetGrant(), 0
}

// commit settles with what was used. Usage is never refused, so it gets more time, and several tries.
func commit(quota bursarv1.QuotaServiceClient, id string, answer answer, failure error) int {
	request := &bursarv1.CommitRequest{
		ReservationId: id,
		Outcome:       bursarv1.Outcome_OUTCOME_COMPLETED,
		Lines:         lines(answer.usage),
		ResponseId:    answer.id,
	}
	if failure != nil {
		// Without lines the policy decides what the call is charged.
		request.Outcome = bursarv1.Outcome_OUTCOME_FAILED
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
	defer cancel()
	response, err := quota.Commit(ctx, request)
	if err != nil {
		log.Printf("error: not committed, the reservation will expire: %v", err)
		return exitUndecided
	}
	log.Printf("committed: %d tokens", response.TokensCommitted)
	if failure != nil {
		return exitNo
	}
	return 0
}

func release(quota bursarv1.QuotaServiceClient, id, reason string) int {
	ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
	defer cancel()
	response, err := quota.Release(ctx, &bursarv1.ReleaseRequest{ReservationId: id, Reason: reason})
	if err != nil {
		log.Printf("error: not released, the reservation will expire: %v", err)
		return exitUndecided
	}
	log.Printf("released: %d tokens", response.TokensReleased)
	return exitNo
}

// lines makes the provider's usage disjoint: what it reports inside another number is taken out of it.
func lines(used *usage) []*bursarv1.Line {
	if used == nil {
		return nil
	}
	cached, reasoning := used.PromptDetails.Cached, used.CompletionDetails.Reasoning
	var made []*bursarv1.Line
	for _, line := range []*bursarv1.Line{
		{Meter: bursarv1.Meter_METER_INPUT, Tokens: used.Prompt - cached},
		{Meter: bursarv1.Meter_METER_CACHE_READ, Tokens: cached},
		{Meter: bursarv1.Meter_METER_OUTPUT, Tokens: used.Completion - reasoning},
		{Meter: bursarv1.Meter_METER_REASONING, Tokens: reasoning},
	} {
		if line.Tokens > 0 {
			made = append(made, line)
		}
	}
	return made
}
