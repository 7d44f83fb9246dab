package com.example.chat;

import com.google.gson.Gson;
import com.google.gson.JsonParseException;
import com.google.gson.annotations.SerializedName;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.Stream;

/** A model behind an OpenAI-compatible API, streamed. */
final class Model {
    /** The statuses by which a provider says that the model did not run. */
    private static final Set<Integer> NOT_RUN = Set.of(400, 401, 404, 429);

    private static final Gson JSON = new Gson();

    /** What the provider says was used; cached and reasoning tokens are within the other two. */
    record Usage(
            @SerializedName("prompt_tokens") long prompt,
            @SerializedName("completion_tokens") long completion,
            @SerializedName("prompt_tokens_details") PromptDetails promptDetails,
            @SerializedName("completion_tokens_details") CompletionDetails completionDetails) {
        long cached() {
            return promptDetails == null ? 0 : promptDetails.cached;
        }

        long reasoning() {
            return completionDetails == null ? 0 : completionDetails.reasoning;
        }
    }

    record PromptDetails(@SerializedName("cached_tokens") long cached) {}

    record CompletionDetails(@SerializedName("reasoning_tokens") long reasoning) {}

    private record Chunk(String id, List<Choice> choices, Usage usage) {}

    private record Choice(Delta delta) {}

    private record Delta(String content) {}

    /** What the stream gave: its id, its usage (null where it did not say), and why it was cut off (null: it was not). */
    record Answer(String responseId, Usage usage, String cutOff) {}

    /** The model did not run; the message is one that the ledger can keep, of at most 256 bytes. */
    static final class NotRun extends Exception {
        NotRun(String why) {
            super(why);
        }
    }

    private String responseId = "";
    private Usage usage;

    /** Asks the model, bounded by the output that was granted, and shows the answer as it comes. */
    Answer stream(String model, String question, long outputTokensMax, Consumer<String> show)
            throws NotRun, InterruptedException {
        String cutOff;
        try {
            HttpResponse<Stream<String>> response = HttpClient.newHttpClient()
                    .send(request(model, question, outputTokensMax), BodyHandlers.ofLines());
            if (NOT_RUN.contains(response.statusCode())) {
                throw new NotRun("status " + response.statusCode());
            }
            try (Stream<String> lines = response.body()) {
                cutOff = response.statusCode() == 200 ? read(lines.iterator(), show) : "status " + response.statusCode();
            }
        } catch (ConnectException refused) {
            throw new NotRun("no connection");
        } catch (IOException | UncheckedIOException | JsonParseException error) {
            cutOff = error.toString();
        }
        return new Answer(responseId, usage, cutOff);
    }

    private static HttpRequest request(String model, String question, long outputTokensMax) throws NotRun {
        var body = Map.of(
                "model", model.replaceFirst("^openai/", ""),
                "messages", List.of(Map.of("role", "user", "content", question)),
                "max_completion_tokens", outputTokensMax,
                "stream", true,
                "stream_options", Map.of("include_usage", true));
        String base = Chat.environment("OPENAI_BASE_URL", "https://api.openai.com/v1");
        try {
            return HttpRequest.newBuilder(URI.create(base + "/chat/completions"))
                    .version(HttpClient.Version.HTTP_1_1)
                    .header("Authorization", "Bearer " + Chat.environment("OPENAI_API_KEY", ""))
                    .header("Content-Type", "application/json")
                    .POST(BodyPublishers.ofString(JSON.toJson(body)))
                    .build();
        } catch (IllegalArgumentException wrong) {
            throw new NotRun("OPENAI_BASE_URL is no address");
        }
    }

    /** Takes the answer apart, line by line; the last chunk has the usage. Gives why it was cut off, or null. */
    private String read(Iterator<String> lines, Consumer<String> show) {
        while (lines.hasNext()) {
            String line = lines.next();
            if (line.equals("data: [DONE]")) {
                return null;
            }
            if (!line.startsWith("data: ")) {
                continue;
            }
            Chunk chunk = JSON.fromJson(line.substring("data: ".length()), Chunk.class);
            responseId = chunk.id();
            usage = chunk.usage() == null ? usage : chunk.usage();
            for (Choice choice : chunk.choices()) {
                if (choice.delta().content() != null) {
                    show.accept(choice.delta().content());
                }
            }
        }
        return "it ended in the middle";
    }
}
