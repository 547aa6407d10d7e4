package driver

import (
	"errors"
	"fmt"
)

// Errors that callers decide by.
var (
	// ErrNetworkUnknown means that no such network is in the journal.
	ErrNetworkUnknown = errors.New("unknown network")
	// ErrEndpointUnknown means that no such endpoint is in the journal.
	ErrEndpointUnknown = errors.New("unknown endpoint")
	// ErrExists means that a network or endpoint of that id is there already
	// with other settings.
	ErrExists = errors.New("already exists")
	// ErrOption means that an option or its value is not valid.
	ErrOption = errors.New("invalid option")
	// ErrConflict means that addresses or names collide with what exists.
	ErrConflict = errors.New("conflict")
)

// hinted is an error that says what to do.
type hinted struct {
	error
	hint string
}

// Hint says what to do about the error.
func (h hinted) Hint() string { return h.hint }

// Unwrap gives the error without the hint.
func (h hinted) Unwrap() error { return h.error }

// WithHint adds what to do to an error; the plugin's answer carries both.
func WithHint(err error, format string, args ...any) error {
	return hinted{error: err, hint: fmt.Sprintf(format, args...)}
}

func unknownNetwork(id string) error {
	return WithHint(fmt.Errorf("%w %s", ErrNetworkUnknown, short(id)),
		"weft's journal does not know it; remove it with `docker network rm` and create it again")
}

func unknownEndpoint(id string) error {
	return WithHint(fmt.Errorf("%w %s", ErrEndpointUnknown, short(id)),
		"disconnect the container with `docker network disconnect -f` and connect it again")
}

// short is an id as Docker's commands print it.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
