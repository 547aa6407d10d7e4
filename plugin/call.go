package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// contentType is that of every answer.
const contentType = "application/vnd.docker.plugins.v1.2+json"

// statusError is an error that is answered with another status than 500.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

// outcome is what a driver's method returned.
type outcome struct {
	answer any
	err    error
}

// handle makes the HTTP handler of one method.
func handle[Req, Resp any](h *Handler, e endpoint[Req, Resp]) http.HandlerFunc {
	var zero Req
	_, bodyless := any(zero).(empty)
	call := func(ctx context.Context, body []byte) (any, error) {
		var req Req
		if !bodyless {
			if err := decodeBody(body, &req); err != nil {
				return nil, err
			}
		}
		return e.call(ctx, req)
	}
	return func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, e.name, bodyless, call) }
}

// serve takes one request from its first byte to its answer.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string, bodyless bool, call func(context.Context, []byte) (any, error)) {
	start := time.Now()
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), start.Add(h.cfg.Timeout))
	var out outcome
	if !h.calls.begin(name) {
		cancel()
		out.err = statusError{ErrStopping, http.StatusServiceUnavailable}
	} else {
		defer h.calls.end(name)
		body, err := h.read(w, r, name, bodyless)
		if err != nil {
			cancel()
			out.err = err
		} else {
			out = h.run(ctx, cancel, name, func(ctx context.Context) (any, error) { return call(ctx, body) })
		}
	}
	err := h.answer(w, out)
	took := time.Since(start)
	h.cfg.Observe(name, took, err)
	if err != nil {
		h.cfg.Logger.Warn("plugin call failed", "method", name, "duration", took, "error", err)
		return
	}
	h.cfg.Logger.Debug("plugin call", "method", name, "duration", took)
}

// read checks the HTTP method and returns the body, nil for a bodyless method.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, name string, bodyless bool) ([]byte, error) {
	handshake := name == "Plugin.Activate" && r.Method == http.MethodGet
	if r.Method != http.MethodPost && !handshake {
		w.Header().Set("Allow", http.MethodPost)
		return nil, statusError{fmt.Errorf("%s takes POST, not %s", name, shorten(r.Method)), http.StatusMethodNotAllowed}
	}
	if bodyless {
		return nil, nil
	}
	// The server has no read timeout; the deadline bounds a body that never ends.
	// It is removed because it would outlive the request on a kept connection.
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(h.cfg.Timeout)); err == nil {
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, h.cfg.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body of %s: %w", name, err)
	}
	if int64(len(body)) > h.cfg.MaxBody {
		// The client reads the answer only once it has sent its body.
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 16*h.cfg.MaxBody))
		return nil, fmt.Errorf("the body of %s is larger than the limit of %d bytes", name, h.cfg.MaxBody)
	}
	return body, nil
}

// decodeBody decodes one JSON value and nothing behind it.
func decodeBody(body []byte, into any) error {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) == 0 || isNull(trimmed) {
		return ErrEmptyBody
	}
	err := json.Unmarshal(body, into)
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("the request body (%d bytes) is not one JSON value: %w, at byte %d", len(body), err, se.Offset)
	}
	if err != nil {
		return fmt.Errorf("malformed request: %w", err)
	}
	return nil
}

// run calls the driver and waits for it until ctx ends and a little longer, so
// that a driver which stops at its deadline can say what it was waiting for.
// The driver's goroutine ends when the driver returns, and not before.
func (h *Handler) run(ctx context.Context, cancel context.CancelFunc, name string, call func(context.Context) (any, error)) outcome {
	start := time.Now()
	done := make(chan outcome, 1)
	h.calls.begin(name)
	go func() {
		defer h.calls.end(name)
		defer cancel()
		out := outcome{err: fmt.Errorf("weft gave up %s (its goroutine ended)", name)}
		defer func() { done <- out }()
		out = h.protect(ctx, name, call)
	}()
	select {
	case out := <-done:
		return out
	case <-ctx.Done():
	}
	grace := time.NewTimer(h.cfg.Timeout / 20)
	defer grace.Stop()
	select {
	case out := <-done:
		return out
	case <-grace.C:
	}
	go func() {
		out := <-done
		h.cfg.Logger.Warn("plugin call returned after its answer", "method", name, "duration", time.Since(start), "error", out.err)
	}()
	return outcome{err: fmt.Errorf("weft did not finish %s within %s; it may still complete: %w", name, h.cfg.Timeout, context.DeadlineExceeded)}
}

// protect turns a panic into an error.
func (h *Handler) protect(ctx context.Context, name string, call func(context.Context) (any, error)) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			h.cfg.Logger.Error("plugin call panicked", "method", name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out = outcome{err: fmt.Errorf("weft failed in %s (this is a bug, see its log): %v", name, p)}
		}
	}()
	answer, err := call(ctx)
	return outcome{answer: answer, err: err}
}

// answer writes out and returns the error that the engine was told, or the one
// that kept it from being told.
func (h *Handler) answer(w http.ResponseWriter, out outcome) error {
	var body []byte
	err := out.err
	if err == nil {
		if body, err = json.Marshal(out.answer); err != nil {
			err = fmt.Errorf("encoding the answer: %w", err)
		}
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		if se, ok := errors.AsType[statusError](err); ok {
			status = se.status
		}
		body, _ = json.Marshal(response(err)) // a struct of one string always encodes
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if h.calls.stopping() {
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(status)
	_, writeErr := w.Write(body)
	if writeErr == nil {
		// The call counts as running until its answer is out: a drain closes the
		// connection right after.
		writeErr = http.NewResponseController(w).Flush()
	}
	if writeErr != nil {
		return errors.Join(err, fmt.Errorf("sending the answer: %w", writeErr))
	}
	return err
}

// unknown answers paths that are no method: the engine treats status 404 as
// "not implemented" where it can do without.
func (h *Handler) unknown(w http.ResponseWriter, r *http.Request) {
	err := h.answer(w, outcome{err: statusError{
		fmt.Errorf("weft does not implement %s", shorten(r.URL.Path)), http.StatusNotFound,
	}})
	h.cfg.Logger.Warn("plugin call failed", "method", shorten(r.URL.Path), "error", err)
}
