// Chat asks a model one question within a budget: reserve, stream the answer, commit what was used.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"example.com/chat/gen/bursarv1"
	"github.com/google/uuid"
)

//go:generate buf generate

const (
	model = "openai/gpt-4.1-mini"

	exitNo        = 1
	exitWrong     = 2
	exitUndecided = 3

	settleWithin = 5 * time.Second
)

// A call to a model waits for the decision; nobody waits for a settlement.
var reserveWithin = 500 * time.Millisecond

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Print("usage: chat QUESTION\nBURSAR_TARGET says where the sidecar is: unix:///run/bursar/bursar.sock or 127.0.0.1:7420")
		os.Exit(exitWrong)
	}
	if text, isSet := os.LookupEnv("RESERVE_WITHIN_MS"); isSet {
		span, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			log.Printf("error: RESERVE_WITHIN_MS is no number of milliseconds: %s", text)
			os.Exit(exitWrong)
		}
		reserveWithin = time.Duration(span) * time.Millisecond
	}
	os.Exit(run(os.Args[1]))
}

func run(question string) int {
	connection, err := connect(environment("BURSAR_TARGET", "127.0.0.1:7420"))
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

	answer, err := stream(grant.Model, question, grant.OutputTokensGranted, func(text string) { fmt.Print(text) })
	fmt.Println()
	var notRun *notRunError
	if errors.As(err, &notRun) {
		log.Printf("error: the model did not run: %v", err)
		return release(quota, grant.ReservationId, notRun.Error())
	}
	if err != nil {
		log.Printf("error: the answer was cut off: %v", err)
	}
	return commit(quota, grant.ReservationId, answer, err)
}

// reserve asks whether the call may run; without a grant it gives the exit code.
func reserve(quota bursarv1.QuotaServiceClient, question string) (*bursarv1.Grant, int) {
	ctx, cancel := context.WithTimeout(context.Background(), reserveWithin)
	defer cancel()
	// The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
	id := uuid.Must(uuid.NewV7()).String()
	chat := &bursarv1.Chat{Messages: []*bursarv1.ChatMessage{{Role: "user", Text: question}}}
	least := uint64(20)
	response, err := quota.Reserve(ctx, &bursarv1.ReserveRequest{
		ReservationId:   id,
		Model:           model,
		Labels:          map[string]string{"tenant": os.Getenv("TENANT"), "feature": "chat"},
		Input:           &bursarv1.ReserveRequest_InputChat{InputChat: chat},
		OutputTokensMax: 200,
		OutputTokensMin: &least,
	})
	if err != nil {
		log.Printf("error: no decision: %s", told(err))
		return nil, undecided(quota, id, err)
	}
	switch outcome := response.Outcome.(type) {
	case *bursarv1.ReserveResponse_Grant:
		return outcome.Grant, 0
	case *bursarv1.ReserveResponse_Denial:
		tell(outcome.Denial)
		return nil, exitNo
	default:
		log.Print("error: no decision: the answer is of a later contract than this client")
		return nil, exitUndecided
	}
}

// tell says what refused and when to try again.
func tell(denial *bursarv1.Denial) {
	log.Printf("denied: %v: %s", denial.Reason, denial.Hint)
	settles := len(denial.Shortfalls) > 0
	for _, shortfall := range denial.Shortfalls {
		standing := shortfall.Standing
		log.Printf("refused by %s: %d %v needed, %d left", standing.GetLimit(), shortfall.Requested, standing.GetUnit(), standing.GetRemaining())
		settles = settles && (shortfall.RetryAfterMs != nil || shortfall.ClearsOnSettle)
	}
	switch {
	case denial.RetryAfterMs != nil:
		log.Printf("try again in %d ms", *denial.RetryAfterMs)
	case settles:
		log.Print("try again when another call has been settled")
	default:
		log.Print("trying again does not help")
	}
}

// undecided tells a question that was wrong from one that nobody answered; it gives the exit code.
func undecided(quota bursarv1.QuotaServiceClient, id string, err error) int {
	switch reason(err) {
	case "INVALID_FIELD":
		return exitWrong
	case "":
		// It may have been granted all the same. The model was not called, so give it back, if anyone listens.
		ctx, cancel := context.WithTimeout(context.Background(), reserveWithin)
		defer cancel()
		_, _ = quota.Release(ctx, &bursarv1.ReleaseRequest{ReservationId: id, Reason: "no answer in time"})
	}
	return exitUndecided
}

// commit settles with what was used. Usage is never refused, so it gets more time.
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
		log.Printf("error: not committed, the reservation will expire: %s", told(err))
		return exitUndecided
	}
	log.Printf("committed: %d tokens", response.TokensCommitted)
	if failure != nil {
		return exitNo
	}
	return 0
}

// release gives everything back.
func release(quota bursarv1.QuotaServiceClient, id, reason string) int {
	ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
	defer cancel()
	response, err := quota.Release(ctx, &bursarv1.ReleaseRequest{ReservationId: id, Reason: reason})
	if err != nil {
		log.Printf("error: not released, the reservation will expire: %s", told(err))
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
