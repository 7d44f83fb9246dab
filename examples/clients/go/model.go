package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// usage is what an OpenAI-compatible provider says was used; cached and reasoning tokens are within the other two.
type usage struct {
	Prompt        uint64 `json:"prompt_tokens"`
	Completion    uint64 `json:"completion_tokens"`
	PromptDetails struct {
		Cached uint64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Reasoning uint64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

type answer struct {
	id    string
	usage *usage
}

// notRunError means that the model did not run, with a reason that the ledger can keep: at most 256 bytes.
type notRunError struct{ why string }

func (e *notRunError) Error() string { return e.why }

// stream asks the model, bounded by the output that was granted, and shows the answer as it comes.
func stream(model, question string, outputTokensMax uint64, show func(string)) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"model":                 strings.TrimPrefix(model, "openai/"),
		"messages":              []map[string]string{{"role": "user", "content": question}},
		"max_completion_tokens": outputTokensMax,
		"stream":                true,
		"stream_options":        map[string]bool{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	base := environment("OPENAI_BASE_URL", "https://api.openai.com/v1")
	request, err := http.NewRequest(http.MethodPost, base+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return answer{}, &notRunError{"OPENAI_BASE_URL is no address"}
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	var failed *net.OpError
	if errors.As(err, &failed) && failed.Op == "dial" {
		return answer{}, &notRunError{"no connection"}
	}
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return read(response.Body, show)
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusTooManyRequests:
		// Only these say that the model did not run.
		return answer{}, &notRunError{fmt.Sprintf("status %d", response.StatusCode)}
	default:
		return answer{}, fmt.Errorf("status %d", response.StatusCode)
	}
}

// read takes the answer apart, event by event; the last one has the usage.
func read(body io.Reader, show func(string)) (answer, error) {
	var got answer
	scanner := bufio.NewScanner(body)
	for scanner.Scan() {
		data, isData := strings.CutPrefix(scanner.Text(), "data: ")
		if !isData {
			continue
		}
		if data == "[DONE]" {
			return got, nil
		}
		var chunk struct {
			ID      string `json:"id"`
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
			Usage *usage `json:"usage"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return got, err
		}
		got.id = chunk.ID
		if chunk.Usage != nil {
			got.usage = chunk.Usage
		}
		for _, choice := range chunk.Choices {
			show(choice.Delta.Content)
		}
	}
	if err := scanner.Err(); err != nil {
		return got, err
	}
	return got, errors.New("it ended in the middle")
}
