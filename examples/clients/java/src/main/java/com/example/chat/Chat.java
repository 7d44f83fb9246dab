package com.example.chat;

import bursar.v1.Quota;
import bursar.v1.Quota.ChatMessage;
import bursar.v1.Quota.CommitRequest;
import bursar.v1.Quota.Denial;
import bursar.v1.Quota.Grant;
import bursar.v1.Quota.Line;
import bursar.v1.Quota.Meter;
import bursar.v1.Quota.Outcome;
import bursar.v1.Quota.ReleaseRequest;
import bursar.v1.Quota.ReserveRequest;
import bursar.v1.Quota.ReserveResponse;
import bursar.v1.Quota.Shortfall;
import com.github.f4b6a3.uuid.UuidCreator;
import io.grpc.StatusRuntimeException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Asks a model one question within a budget: reserve, stream the answer, commit what was used. */
public final class Chat {
    private static final String MODEL = "openai/gpt-4.1-mini";

    private static final int DONE = 0;
    private static final int NO = 1;
    private static final int WRONG = 2;
    private static final int UNDECIDED = 3;

    /** A call to a model waits for the decision; nobody waits for a settlement. */
    private static final String RESERVE_WITHIN_MS = environment("RESERVE_WITHIN_MS", "500");
    private static final Duration SETTLE_WITHIN = Duration.ofSeconds(5);

    private static final String USAGE = """
            usage: chat QUESTION
            BURSAR_TARGET says where the sidecar is: unix:///run/bursar/bursar.sock or 127.0.0.1:7420""";

    // Java's own take the terminal's encoding, which may have no words for what a model says.
    private static final PrintStream OUT = utf8(FileDescriptor.out);
    private static final PrintStream ERR = utf8(FileDescriptor.err);

    private final Sidecar sidecar;
    private final Duration reserveWithin;

    private Chat(Sidecar sidecar, Duration reserveWithin) {
        this.sidecar = sidecar;
        this.reserveWithin = reserveWithin;
    }

    public static void main(String[] words) throws InterruptedException {
        if (words.length != 1) {
            ERR.println(USAGE);
            System.exit(WRONG);
        }
        Duration reserveWithin = null;
        try {
            reserveWithin = Duration.ofMillis(Long.parseLong(RESERVE_WITHIN_MS));
        } catch (NumberFormatException wrong) {
            ERR.println("error: RESERVE_WITHIN_MS is no number of milliseconds: " + RESERVE_WITHIN_MS);
            System.exit(WRONG);
        }
        int code;
        try (Sidecar sidecar = new Sidecar(environment("BURSAR_TARGET", "127.0.0.1:7420"))) {
            sidecar.warm(MODEL);
            code = new Chat(sidecar, reserveWithin).run(words[0]);
        } catch (IllegalArgumentException wrong) {
            ERR.println("error: BURSAR_TARGET: " + wrong.getMessage());
            code = WRONG;
        }
        System.exit(code);
    }

    private int run(String question) throws InterruptedException {
        var message = ChatMessage.newBuilder().setRole("user").setText(question);
        var request = ReserveRequest.newBuilder()
                // The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
                .setReservationId(UuidCreator.getTimeOrderedEpoch().toString())
                .setModel(MODEL)
                .putLabels("tenant", environment("TENANT", ""))
                .putLabels("feature", "chat")
                .setInputChat(Quota.Chat.newBuilder().addMessages(message))
                .setOutputTokensMax(200)
                .setOutputTokensMin(20)
                .build();
        ReserveResponse response;
        try {
            response = sidecar.within(reserveWithin).reserve(request);
        } catch (StatusRuntimeException error) {
            ERR.println("error: no decision: " + Sidecar.told(error));
            return undecided(request.getReservationId(), Sidecar.reason(error));
        }
        switch (response.getOutcomeCase()) {
            case GRANT:
                return ask(question, response.getGrant());
            case DENIAL:
                tell(response.getDenial());
                return NO;
            default:
                ERR.println("error: no decision: the answer is of a later contract than this client");
                return UNDECIDED;
        }
    }

    /** Says what refused and when to try again. */
    private static void tell(Denial denial) {
        ERR.println("denied: " + denial.getReason() + ": " + denial.getHint());
        for (Shortfall shortfall : denial.getShortfallsList()) {
            var standing = shortfall.getStanding();
            ERR.println("refused by " + standing.getLimit() + ": " + shortfall.getRequested() + " "
                    + standing.getUnit() + " needed, " + standing.getRemaining() + " left");
        }
        boolean settles = denial.getShortfallsList().stream()
                .allMatch(refused -> refused.hasRetryAfterMs() || refused.getClearsOnSettle());
        if (denial.hasRetryAfterMs()) {
            ERR.println("try again in " + denial.getRetryAfterMs() + " ms");
        } else if (denial.getShortfallsCount() > 0 && settles) {
            ERR.println("try again when another call has been settled");
        } else {
            ERR.println("trying again does not help");
        }
    }

    /** Tells a question that was wrong from one that nobody answered; gives the exit code. */
    private int undecided(String reservationId, Optional<String> reason) {
        if (reason.isPresent()) {
            return reason.get().equals("INVALID_FIELD") ? WRONG : UNDECIDED;
        }
        // It may have been granted all the same. The model was not called, so give it back, if anyone listens.
        try {
            var request = ReleaseRequest.newBuilder().setReservationId(reservationId).setReason("no answer in time");
            var ignored = sidecar.within(reserveWithin).release(request.build());
        } catch (StatusRuntimeException ignored) {
            // Then it expires.
        }
        return UNDECIDED;
    }

    private int ask(String question, Grant grant) throws InterruptedException {
        ERR.println("granted: " + grant.getInputTokens() + " tokens in, " + grant.getOutputTokensGranted() + " out");
        Model.Answer answer;
        try {
            answer = new Model().stream(grant.getModel(), question, grant.getOutputTokensGranted(), OUT::print);
        } catch (Model.NotRun error) {
            OUT.println();
            ERR.println("error: the model did not run: " + error.getMessage());
            return release(grant.getReservationId(), error.getMessage());
        }
        OUT.println();
        if (answer.cutOff() != null) {
            ERR.println("error: the answer was cut off: " + answer.cutOff());
        }
        return commit(grant.getReservationId(), answer);
    }

    /** Settles with what was used. Usage is never refused, so it gets more time. */
    private int commit(String reservationId, Model.Answer answer) {
        boolean completed = answer.cutOff() == null;
        var request = CommitRequest.newBuilder()
                .setReservationId(reservationId)
                // Without lines the policy decides what a call that failed is charged.
                .setOutcome(completed ? Outcome.OUTCOME_COMPLETED : Outcome.OUTCOME_FAILED)
                .addAllLines(lines(answer.usage()))
                .setResponseId(answer.responseId())
                .build();
        try {
            var response = sidecar.within(SETTLE_WITHIN).commit(request);
            ERR.println("committed: " + response.getTokensCommitted() + " tokens");
            return completed ? DONE : NO;
        } catch (StatusRuntimeException error) {
            ERR.println("error: not committed, the reservation will expire: " + Sidecar.told(error));
            return UNDECIDED;
        }
    }

    /** Gives everything back. */
    private int release(String reservationId, String reason) {
        var request = ReleaseRequest.newBuilder().setReservationId(reservationId).setReason(reason).build();
        try {
            var response = sidecar.within(SETTLE_WITHIN).release(request);
            ERR.println("released: " + response.getTokensReleased() + " tokens");
            return NO;
        } catch (StatusRuntimeException error) {
            ERR.println("error: not released, the reservation will expire: " + Sidecar.told(error));
            return UNDECIDED;
        }
    }

    /** Makes the provider's usage disjoint: what it reports inside another number is taken out of it. */
    private static List<Line> lines(Model.Usage used) {
        List<Line> lines = new ArrayList<>();
        if (used == null) {
            return lines;
        }
        Map<Meter, Long> disjoint = new LinkedHashMap<>();
        disjoint.put(Meter.METER_INPUT, used.prompt() - used.cached());
        disjoint.put(Meter.METER_CACHE_READ, used.cached());
        disjoint.put(Meter.METER_OUTPUT, used.completion() - used.reasoning());
        disjoint.put(Meter.METER_REASONING, used.reasoning());
        disjoint.forEach((meter, tokens) -> {
            if (tokens > 0) {
                lines.add(Line.newBuilder().setMeter(meter).setTokens(tokens).build());
            }
        });
        return lines;
    }

    static String environment(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : value;
    }

    private static PrintStream utf8(FileDescriptor descriptor) {
        return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
    }
}
