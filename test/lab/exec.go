//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// commandLimit bounds a command whose context has no deadline.
const commandLimit = 2 * time.Minute

// Run runs a command in the host and returns its standard output without the
// last newline. The error of a failed command holds the command and all its
// output. Without a deadline in ctx it gets two minutes.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.RunInput(ctx, nil, args...)
}

// RunInput is Run with standard input.
func (h *Host) RunInput(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	ctx, cancel := bounded(ctx, commandLimit)
	defer cancel()
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = stdin
	return finish(ctx, cmd, h.Name, args)
}

// MustRun is Run that ends the test on an error.
func (h *Host) MustRun(t TB, args ...string) string {
	t.Helper()
	out, err := h.Run(context.Background(), args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// Docker runs the docker command of the host against the host's engine.
func (h *Host) Docker(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, append([]string{"docker"}, args...)...)
}

// MustDocker is Docker that ends the test on an error.
func (h *Host) MustDocker(t TB, args ...string) string {
	t.Helper()
	return h.MustRun(t, append([]string{"docker"}, args...)...)
}

// Command prepares a command in the host for callers that want its streams.
// When ctx ends, the command and its children are killed.
func (h *Host) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	pid := h.initPID()
	if pid == 0 {
		return nil, fmt.Errorf("lab: %s: %s: the host is off", h.Name, strings.Join(args, " "))
	}
	// The process that keeps waiting outside is nsenter; only the group
	// reaches the command itself.
	nsenter := []string{"-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(nsenter, args...)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=xterm",
	}
	groupKill(cmd)
	return cmd, nil
}

// groupKill makes the end of the command's context kill all its processes.
func groupKill(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
}

// finish runs a prepared command to its end.
func finish(ctx context.Context, cmd *exec.Cmd, where string, args []string) (string, error) {
	var stdout, all bytes.Buffer
	both := &lockedWriter{w: &all}
	cmd.Stdout = io.MultiWriter(&stdout, both)
	cmd.Stderr = both
	err := cmd.Run()
	out := strings.TrimSuffix(stdout.String(), "\n")
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return out, fmt.Errorf("lab: %s: %s: %w\n%s", where, strings.Join(args, " "), err, all.String())
}

// machine runs a command on the machine itself.
func machine(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := bounded(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	groupKill(cmd)
	return finish(ctx, cmd, "machine", args)
}

// Process is a command that runs in the background of a host.
type Process struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	out    *lockedWriter
}

// Background starts a command in the host and returns at once. The command
// ends with Stop, with the host, or with the lab.
func (h *Host) Background(args ...string) (*Process, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		cancel()
		return nil, err
	}
	p := &Process{cmd: cmd, cancel: cancel, done: make(chan struct{}), out: &lockedWriter{w: new(bytes.Buffer)}}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("lab: %s: %s: %w", h.Name, strings.Join(args, " "), err)
	}
	go func() {
		defer close(p.done)
		defer cancel()
		p.err = cmd.Wait()
	}()
	return p, nil
}

// Stop kills the command, waits for its end and returns what it wrote.
func (p *Process) Stop() string {
	p.cancel()
	<-p.done
	return p.out.String()
}

// Signal sends a signal to the command and its children.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(-p.cmd.Process.Pid, s) }

// Wait waits for the command to end by itself.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Output is what the command has written so far, both streams.
func (p *Process) Output() string { return p.out.String() }

// lockedWriter is a buffer that is written and read at the same time.
type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}
