package com.example.chat;

import bursar.v1.Quota.CountTokensRequest;
import bursar.v1.QuotaServiceGrpc;
import bursar.v1.QuotaServiceGrpc.QuotaServiceBlockingStub;
import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.logging.Level;
import java.util.logging.Logger;

/** The connection to the sidecar, and how a failed call is told. */
final class Sidecar implements AutoCloseable {
    private static final Duration WARM_WITHIN = Duration.ofSeconds(2);

    /**
     * Every call may be repeated, because its id is the caller's: so let gRPC repeat it while the sidecar restarts.
     * That a call waits for a connection is said on the stub: the one that warms does not.
     */
    private static final String SERVICE_CONFIG = """
            {"methodConfig": [{
              "name": [{"service": "bursar.v1.QuotaService"}],
              "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s",
                "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}""";

    /** What says, over a socket, that it has no use for an option of TCP; kept, as a logger is dropped with its level. */
    private static final Logger NETTY = Logger.getLogger("io.grpc.netty.shaded.io.netty.bootstrap");

    private final ManagedChannel channel;

    /** Makes a channel that connects at its first call, over TCP or (`unix:`) a socket. */
    Sidecar(String target) {
        Map<String, ?> config = new Gson().fromJson(SERVICE_CONFIG, new TypeToken<Map<String, Object>>() {}.getType());
        var builder = Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()).defaultServiceConfig(config);
        NETTY.setLevel(Level.SEVERE);
        if (target.startsWith("unix:")) {
            // Else it is the socket's path, which servers do not take for an authority.
            builder.overrideAuthority("localhost");
        }
        channel = builder.build();
    }

    /** A call, which waits for a connection and must be answered within this. */
    QuotaServiceBlockingStub within(Duration span) {
        return stub(span).withWaitForReady();
    }

    private QuotaServiceBlockingStub stub(Duration span) {
        return QuotaServiceGrpc.newBlockingStub(channel).withDeadlineAfter(span.toMillis(), TimeUnit.MILLISECONDS);
    }

    /**
     * Makes a call that changes nothing. The first call of a JVM loads hundreds of classes, which takes longer than a
     * decision may: a service does this once, as it starts.
     */
    void warm(String model) {
        try {
            var request = CountTokensRequest.newBuilder().setModel(model).addTexts("").build();
            var ignored = stub(WARM_WITHIN).countTokens(request);
        } catch (StatusRuntimeException ignored) {
            // Whoever asks for a decision will be told.
        }
    }

    /** The name that bursar gave the reason; empty: the call did not come as far as an answer. */
    static Optional<String> reason(StatusRuntimeException error) {
        try {
            for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
                if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("bursar")) {
                    return Optional.of(detail.unpack(ErrorInfo.class).getReason());
                }
            }
        } catch (InvalidProtocolBufferException malformed) {
            // Not from bursar.
        }
        return Optional.empty();
    }

    /** The reason, and for a person what was wrong. */
    static String told(StatusRuntimeException error) {
        var status = error.getStatus();
        // The lines after the first are a stack trace.
        var message = Optional.ofNullable(status.getDescription()).flatMap(text -> text.lines().findFirst());
        return reason(error).orElse("NO_ANSWER") + ": " + message.orElse(status.getCode().name());
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }
}
