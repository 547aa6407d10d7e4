package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// socketMode lets only the owner, root, talk to the driver.
const socketMode = 0o600

// Listen makes the unix socket at path with mode 0600, and its directory with
// mode 0755 if need be. A socket file that nobody answers on is replaced. If
// somebody answers, or may be about to, the error is or wraps [ErrSocketInUse];
// anything at path that is not a socket is left alone and is an error. Closing
// the listener removes the file.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the plugin socket: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The kernel gives the new file the mode of the socket's inode, so that the
	// file is never there with a wider one.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmodErr error
		err := raw.Control(func(fd uintptr) { chmodErr = syscall.Fchmod(int(fd), socketMode) })
		return errors.Join(err, chmodErr)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the plugin socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting the plugin socket: %w", err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket file that refuses connections.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for an old plugin socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way: it is not a socket (%s); move it away", path, info.Mode())
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s: %w", path, ErrSocketInUse), conn.Close())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: %w", path, ErrSocketInUse, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an old plugin socket: %w", err)
	}
	return nil
}

// ActivationListener returns the one socket that systemd passed to this
// process, or nil and no error if it passed none. It clears LISTEN_PID,
// LISTEN_FDS and LISTEN_FDNAMES, so that child processes do not see them, and
// can therefore be called once. Closing the listener leaves the socket file,
// which belongs to systemd.
func ActivationListener() (net.Listener, error) {
	n, err := passedSockets(os.Getpid(), os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"))
	if err != nil || n == 0 {
		return nil, err
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("clearing %s: %w", name, err)
		}
	}
	const firstFD = 3 // systemd's SD_LISTEN_FDS_START
	syscall.CloseOnExec(firstFD)
	file := os.NewFile(firstFD, "systemd socket")
	l, err := net.FileListener(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking over systemd's socket: %w", err), file.Close())
	}
	if err := file.Close(); err != nil { // l holds a duplicate
		return nil, errors.Join(fmt.Errorf("taking over systemd's socket: %w", err), l.Close())
	}
	return l, nil
}

// passedSockets says how many sockets systemd passed to the process pid: 0 or
// 1, as this package can serve no more.
func passedSockets(pid int, listenPID, listenFDs string) (int, error) {
	if listenPID == "" || listenFDs == "" {
		return 0, nil
	}
	to, err := strconv.Atoi(listenPID)
	if err != nil {
		return 0, fmt.Errorf("LISTEN_PID is %q, not a process id", shorten(listenPID))
	}
	if to != pid {
		return 0, nil // meant for a parent
	}
	n, err := strconv.Atoi(listenFDs)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("LISTEN_FDS is %q, not a number of sockets", shorten(listenFDs))
	}
	if n > 1 {
		return 0, fmt.Errorf("systemd passed %d sockets, want one: keep a single ListenStream in the socket unit", n)
	}
	return n, nil
}
