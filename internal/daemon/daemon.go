// Package daemon runs the tasks of a process together: when one fails or a
// signal comes, all end.
//
//	err := daemon.Run(ctx, log, daemon.Task{Name: "plugin", Run: serve}, …)
//
// It restarts nothing; that is the work of the engine or of systemd.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// A Task runs until its context ends and then returns nil.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// Run runs all tasks until one fails, ctx ends, or SIGTERM or SIGINT arrives.
// A second signal kills the process. It returns the first failure.
func Run(ctx context.Context, log *slog.Logger, tasks ...Task) error {
	signaled, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-signaled.Done()
		stop() // the next signal has its default effect
	}()
	group, ctx := errgroup.WithContext(signaled)
	for _, t := range tasks {
		group.Go(func() error {
			err := t.Run(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("%s: ended by itself", t.Name)
			}
			log.Debug("task ended", "task", t.Name)
			return nil
		})
	}
	return group.Wait()
}

// Notify tells systemd about the state of the service ("READY=1"); without
// systemd it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}
