package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	bursar "bursar.invalid/clients/go/bursarv1"
)

// What is promised. Every tenant has 1,000 tokens in all: see policy.yaml.
var scenarios = []scenario{
	{"a_sidecar_that_serves_says_so", healthy},
	{"a_commit_corrects_what_was_reserved", commit},
	{"a_commit_said_twice_counts_once", commitTwice},
	{"a_release_gives_everything_back", release},
	{"a_record_counts_usage_that_had_no_reservation", record},
	{"a_denial_is_an_answer_and_changes_nothing", denial},
	{"the_output_that_fits_is_granted", outputThatFits},
	{"an_id_with_other_content_is_a_conflict", conflict},
	{"a_wrong_question_names_its_field", wrongQuestion},
	{"an_unknown_reservation_is_not_found", unknown},
	{"a_call_that_is_not_served_says_so", unserved},
	{"tokens_are_counted_as_the_model_counts_them", countTokens},
	{"a_race_for_the_last_tokens_has_as_many_winners_as_fit", race},
}

func healthy(ctx context.Context, sidecar *sidecar) error {
	for _, service := range []string{"", "bursar.v1.QuotaService"} {
		answer, err := sidecar.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			return err
		}
		if err := wanted("health", grpc_health_v1.HealthCheckResponse_SERVING, answer.Status); err != nil {
			return err
		}
	}
	return nil
}

func commit(ctx context.Context, sidecar *sidecar) error {
	grant, err := sidecar.granted(ctx, sidecar.request(100, 500))
	if err != nil {
		return err
	}
	answer, err := sidecar.Commit(ctx, completed(grant.ReservationId, 100, 50))
	if err != nil {
		return err
	}
	return first(
		wanted("reserved", uint64(600), grant.TokensReserved),
		wanted("remaining after the grant", uint64(400), grant.Tightest.GetRemaining()),
		wanted("committed", uint64(150), answer.TokensCommitted),
		wanted("remaining after the commit", uint64(850), answer.Tightest.GetRemaining()),
		wanted("overrun", uint64(0), answer.TokensOverrun),
		wanted("replayed", false, answer.Replayed),
	)
}

func commitTwice(ctx context.Context, sidecar *sidecar) error {
	grant, err := sidecar.granted(ctx, sidecar.request(0, 200))
	if err != nil {
		return err
	}
	once, err := sidecar.Commit(ctx, completed(grant.ReservationId, 0, 300))
	if err != nil {
		return err
	}
	twice, err := sidecar.Commit(ctx, completed(grant.ReservationId, 0, 300))
	if err != nil {
		return err
	}
	return first(
		wanted("overrun", uint64(100), once.TokensOverrun),
		wanted("replayed", true, twice.Replayed),
		wanted("sequence", once.LedgerSequence, twice.LedgerSequence),
		wanted("committed", once.TokensCommitted, twice.TokensCommitted),
		wanted("remaining", uint64(700), twice.Tightest.GetRemaining()),
	)
}

func release(ctx context.Context, sidecar *sidecar) error {
	grant, err := sidecar.granted(ctx, sidecar.request(0, 1000))
	if err != nil {
		return err
	}
	request := &bursar.ReleaseRequest{ReservationId: grant.ReservationId, Reason: "refused connection"}
	once, err := sidecar.Release(ctx, request)
	if err != nil {
		return err
	}
	twice, err := sidecar.Release(ctx, request)
	if err != nil {
		return err
	}
	again, err := sidecar.granted(ctx, sidecar.request(0, 1000))
	if err != nil {
		return err
	}
	return first(
		wanted("released", uint64(1000), once.TokensReleased),
		wanted("replayed", true, twice.Replayed),
		wanted("reserved again", uint64(1000), again.TokensReserved),
	)
}

func record(ctx context.Context, sidecar *sidecar) error {
	request := &bursar.RecordRequest{
		RecordId:         unique("go"),
		Model:            "openai/gpt-4.1-mini",
		Labels:           map[string]string{"tenant": sidecar.tenant},
		Lines:            []*bursar.Line{{Meter: bursar.Meter_METER_OUTPUT, Tokens: 400}},
		OccurredAtUnixMs: time.Now().Add(-time.Second).UnixMilli(),
	}
	once, err := sidecar.Record(ctx, request)
	if err != nil {
		return err
	}
	twice, err := sidecar.Record(ctx, request)
	if err != nil {
		return err
	}
	grant, err := sidecar.granted(ctx, sidecar.request(0, 100))
	if err != nil {
		return err
	}
	return first(
		wanted("recorded", uint64(400), once.TokensCommitted),
		wanted("replayed", true, twice.Replayed),
		wanted("remaining", uint64(500), grant.Tightest.GetRemaining()),
	)
}

func denial(ctx context.Context, sidecar *sidecar) error {
	request := sidecar.request(0, 1001)
	response, err := sidecar.Reserve(ctx, request)
	if err != nil {
		return err
	}
	denial := response.GetDenial()
	if denial == nil || len(denial.Shortfalls) != 1 {
		return fmt.Errorf("wanted one shortfall, got %v", response)
	}
	shortfall := denial.Shortfalls[0]
	// The id of a denial is free: the same one is decided anew.
	request.OutputTokensMax = 1000
	grant, err := sidecar.granted(ctx, request)
	if err != nil {
		return err
	}
	return first(
		wanted("reason", bursar.Reason_REASON_LIMIT, denial.Reason),
		wanted("limit", "tenant-total", shortfall.Standing.GetLimit()),
		wanted("scope", sidecar.tenant, shortfall.Standing.GetScope()["tenant"]),
		wanted("requested", uint64(1001), shortfall.Requested),
		wanted("retry_after_ms given", false, denial.RetryAfterMs != nil),
		wanted("remaining", uint64(0), grant.Tightest.GetRemaining()),
	)
}

func outputThatFits(ctx context.Context, sidecar *sidecar) error {
	request := sidecar.request(300, 2000)
	least := uint64(100)
	request.OutputTokensMin = &least
	grant, err := sidecar.granted(ctx, request)
	if err != nil {
		return err
	}
	return wanted("output", uint64(700), grant.OutputTokensGranted)
}

func conflict(ctx context.Context, sidecar *sidecar) error {
	request := sidecar.request(0, 10)
	if _, err := sidecar.granted(ctx, request); err != nil {
		return err
	}
	request.OutputTokensMax = 11
	if _, err := sidecar.Reserve(ctx, request); true {
		if _, err := refused(err, codes.AlreadyExists); err != nil {
			return err
		}
	}
	if _, err := sidecar.Commit(ctx, completed(request.ReservationId, 0, 5)); err != nil {
		return err
	}
	_, err := sidecar.Commit(ctx, completed(request.ReservationId, 0, 6))
	_, err = refused(err, codes.AlreadyExists)
	return err
}

func wrongQuestion(ctx context.Context, sidecar *sidecar) error {
	request := sidecar.request(0, 10)
	request.Model = ""
	_, err := sidecar.Reserve(ctx, request)
	fields, err := refused(err, codes.InvalidArgument)
	if err != nil {
		return err
	}
	return wanted("fields", "[model]", fmt.Sprint(fields))
}

func unknown(ctx context.Context, sidecar *sidecar) error {
	_, err := sidecar.Commit(ctx, completed(unique("go"), 0, 5))
	_, err = refused(err, codes.NotFound)
	return err
}

func unserved(ctx context.Context, sidecar *sidecar) error {
	_, err := sidecar.Extend(ctx, &bursar.ExtendRequest{ReservationId: unique("go")})
	_, err = refused(err, codes.Unimplemented)
	return err
}

func countTokens(ctx context.Context, sidecar *sidecar) error {
	texts := []string{"hello world", ""}
	exact, err := sidecar.CountTokens(ctx, &bursar.CountTokensRequest{Model: "openai/gpt-4.1-mini", Texts: texts})
	if err != nil {
		return err
	}
	bound, err := sidecar.CountTokens(ctx, &bursar.CountTokensRequest{Model: "somebody/else", Texts: texts})
	if err != nil {
		return err
	}
	return first(
		wanted("tokens", "[2 0]", fmt.Sprint(exact.Tokens)),
		wanted("method", bursar.Method_METHOD_EXACT, exact.CountedBy.GetMethod()),
		wanted("tokenizer", "o200k_base", exact.CountedBy.GetTokenizer()),
		wanted("bound", "[11 0]", fmt.Sprint(bound.Tokens)),
		wanted("method of the bound", bursar.Method_METHOD_BOUND, bound.CountedBy.GetMethod()),
	)
}

// 100 calls at once want 20 tokens each of 1,000: 50 are granted, whoever they are.
func race(ctx context.Context, sidecar *sidecar) error {
	const calls, winners = 100, 50
	answers := make(chan *bursar.ReserveResponse, calls)
	failures := make(chan error, calls)
	var group sync.WaitGroup
	for call := 0; call < calls; call++ {
		group.Add(1)
		go func() {
			defer group.Done()
			response, err := sidecar.Reserve(ctx, sidecar.request(0, 20))
			if err != nil {
				failures <- err
				return
			}
			answers <- response
		}()
	}
	group.Wait()
	close(answers)
	close(failures)
	for err := range failures {
		return err
	}
	granted := 0
	for response := range answers {
		if response.GetGrant() != nil {
			granted++
		}
	}
	return wanted("granted", winners, granted)
}
