package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Serve answers the engine on l until ctx ends or l fails; it closes l. When ctx
// ends it takes no new connection, answers what still comes on open ones, waits
// up to [Config].DrainTimeout for running calls (those that the engine was
// already told have timed out, too), and closes all connections.
//
// It returns nil after a complete drain, an error that names the calls that
// were still running, or the error of l. Several Serve calls on one Handler
// must share the end of ctx: the drain of one ends the service of all.
//
// The server is that of go-plugins-helpers and takes no header, write or idle
// timeout. A peer that sends half a header keeps one goroutine busy until Serve
// ends; only root can reach the socket that [Listen] makes. A body, in contrast,
// must arrive within [Config].Timeout.
func (h *Handler) Serve(ctx context.Context, l net.Listener) error {
	tl := &trackedListener{Listener: l, conns: map[net.Conn]struct{}{}}
	defer tl.closeConns()
	failed := make(chan error, 1)
	go func() { failed <- h.sdk.Serve(tl) }()
	select {
	case err := <-failed:
		_ = l.Close()
		return fmt.Errorf("serving the plugin socket: %w", err)
	case <-ctx.Done():
	}
	h.calls.stop()
	_ = l.Close() // a second close is all that can fail
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		h.cfg.Logger.Debug("plugin socket closed", "error", err)
	}
	return h.calls.drain(h.cfg.DrainTimeout)
}

// calls counts running calls by method. It passes through three states:
// serving, stopping (new calls are served, their connections closed) and
// stopped (new calls are refused).
type calls struct {
	mu      sync.Mutex
	running map[string]int
	state   int
	idle    chan struct{} // closed on the way to stopped
}

const (
	stateServing = iota
	stateStopping
	stateStopped
)

func newCalls() *calls {
	return &calls{running: map[string]int{}, idle: make(chan struct{})}
}

// begin counts a call, or reports false when no call is taken any more. A call
// that is running may begin another.
func (c *calls) begin(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateStopped {
		return false
	}
	c.running[name]++
	return true
}

func (c *calls) end(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[name]--; c.running[name] <= 0 {
		delete(c.running, name)
	}
	c.settle()
}

// stop begins the drain.
func (c *calls) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateServing {
		c.state = stateStopping
	}
	c.settle()
}

// settle ends the drain once nothing runs. c.mu is held.
func (c *calls) settle() {
	if c.state == stateStopping && len(c.running) == 0 {
		c.state = stateStopped
		close(c.idle)
	}
}

func (c *calls) stopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != stateServing
}

// drain waits until nothing runs, or returns an error that names what does.
func (c *calls) drain(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.idle:
		return nil
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.running) == 0 {
		return nil
	}
	names := strings.Join(slices.Sorted(maps.Keys(c.running)), ", ")
	return fmt.Errorf("calls still running %s after the stop: %s", limit, names)
}

// trackedListener remembers its connections, so that those which the engine
// keeps open without a request can be closed.
type trackedListener struct {
	net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Accept waits for the next connection and remembers it.
func (l *trackedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tc := &trackedConn{Conn: conn, forget: l.forget}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	l.conns[tc] = struct{}{}
	return tc, nil
}

func (l *trackedListener) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *trackedListener) closeConns() {
	l.mu.Lock()
	l.closed = true
	open := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// trackedConn is a connection that reports its end.
type trackedConn struct {
	net.Conn
	forget func(net.Conn)
}

// Close ends the connection and forgets it.
func (c *trackedConn) Close() error {
	c.forget(c)
	return c.Conn.Close()
}

// CloseWrite lets the server end an answer before the request was read to its
// end without the peer losing the answer.
func (c *trackedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
