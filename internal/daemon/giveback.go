package daemon

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// giveBackEvery is how often GiveBack looks.
	giveBackEvery = 10 * time.Second
	// quiet is how many octets a process allocates between two looks that does little.
	quiet = 4 << 20
)

// GiveBack returns to the system what a burst of work took, the program's own pages too,
// once the burst is over: by itself Go keeps its heap until the next collection, and a tenth
// more. It runs until ctx ends.
func GiveBack(ctx context.Context, log *slog.Logger) { giveBack(ctx, log, giveBackEvery) }

func giveBack(ctx context.Context, log *slog.Logger, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	owed := true // for the start
	for before := allocated(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := allocated()
		busy := now-before > quiet
		if owed && !busy {
			debug.FreeOSMemory()
			if err := ReleaseProgram(); err != nil {
				log.Debug("memory", "err", err)
			}
		}
		owed, before = busy, now
	}
}

// allocated is how many octets of heap were ever taken.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
