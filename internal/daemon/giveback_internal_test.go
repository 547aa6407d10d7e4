package daemon

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"
)

// held is the memory of the heap that the system has not got back.
func held() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	var sum uint64
	for _, s := range samples {
		sum += s.Value.Uint64()
	}
	return sum
}

// TestGiveBack: what a burst took is the system's again soon after, though nobody collects.
func TestGiveBack(t *testing.T) {
	const burst = 64 << 20
	percent := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(percent)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { giveBack(ctx, slog.New(slog.DiscardHandler), 20*time.Millisecond) })
	before := held()
	for range burst >> 17 {
		runtime.KeepAlive(make([]byte, 1<<17))
	}
	if got := held(); got < before+burst/2 {
		t.Fatalf("a burst of %d octets makes %d of %d: the test tests nothing", burst, got, before)
	}
	for end := time.Now().Add(10 * time.Second); held() > before+burst/8; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d octets are held after a burst, %d before", held(), before)
		}
	}
}
