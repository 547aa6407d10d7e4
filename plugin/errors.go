package plugin

import (
	"errors"
	"fmt"
	"strings"
)

// ErrSocketInUse is returned by [Listen] when another process answers on the
// socket's path.
var ErrSocketInUse = errors.New("another process is serving on this socket")

// ErrEmptyBody is the error of a request without the body that its method
// needs. The engine sends such a request when it retries a call whose
// connection broke: it has spent the body on the first try.
var ErrEmptyBody = errors.New("the request has no body (the engine retries a broken call without its body; repeat the docker command)")

// ErrStopping is the error of a request that arrives after the drain of
// [Handler.Serve] has ended.
var ErrStopping = errors.New("weft is stopping; try again when the plugin is enabled")

// ErrorResponse is the body of every failed call. The engine reads the field
// Err for both interfaces as long as the status is not 200; with status 200 it
// would look for Error in an answer of an IpamDriver.
type ErrorResponse struct {
	// Err is never empty.
	Err string
}

// FieldError says which field of a request holds an unusable value.
type FieldError struct {
	// Field is the path from the top of the body, such as IPv4Data[0].Pool.
	Field string
	// Value is the text that was sent; empty when the field was missing.
	Value string
	// Want describes what belongs there, with its article.
	Want string
}

// Error returns one line that names the field, the value (shortened) and what
// belongs there.
func (e *FieldError) Error() string {
	field := e.Field
	if field == "" {
		field = "request body"
	}
	if e.Value == "" {
		return fmt.Sprintf("%s: missing, want %s", field, e.Want)
	}
	return fmt.Sprintf("%s: %q is not %s", field, shorten(e.Value), e.Want)
}

// under puts parent in front of the field that err names.
func under(parent string, err error) error {
	if err == nil {
		return nil
	}
	var fe *FieldError
	if !errors.As(err, &fe) {
		return fmt.Errorf("%s: %w", parent, err)
	}
	path := parent
	switch {
	case strings.HasPrefix(fe.Field, "["):
		path += fe.Field
	case fe.Field != "":
		path += "." + fe.Field
	}
	return &FieldError{Field: path, Value: fe.Value, Want: fe.Want}
}

// response translates err into the one form in which it travels to the
// engine: a single line, never empty, with the hint of the first error in the
// chain that has one.
func response(err error) ErrorResponse {
	text := err.Error()
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) {
		if hint := hinter.Hint(); hint != "" && !strings.HasSuffix(text, hint) {
			text += ": " + hint
		}
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	if text == "" {
		text = fmt.Sprintf("unknown error (%T)", err)
	}
	return ErrorResponse{Err: text}
}

// shorten keeps a value that came over the wire fit for an error message.
func shorten(s string) string {
	const limit = 128
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
