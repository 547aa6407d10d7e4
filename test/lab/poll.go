//go:build linux

package lab

import (
	"context"
	"fmt"
	"time"
)

// longestPause between two attempts, however long these take.
const longestPause = 500 * time.Millisecond

// Until calls try until it returns nil. It waits a little longer after every
// attempt, at least as long as that took, so that those who wait leave the processor
// to what they wait for. It gives up when ctx is done, or after 30 seconds if ctx has no
// deadline. The error names what was waited for and holds try's last error.
func Until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := bounded(ctx, 30*time.Second)
	defer cancel()
	pause := 2 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: waiting for %s: %w (last: %w)", what, ctx.Err(), last)
		case <-timer.C:
		}
		begin := time.Now()
		if last = try(ctx); last == nil {
			return nil
		}
		timer.Reset(max(pause, min(time.Since(begin), longestPause)))
		pause = min(pause*3/2, 100*time.Millisecond)
	}
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}
