//go:build bench

package directory_test

import (
	"fmt"
	"runtime/metrics"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
)

// TestIdle measures a directory that nothing happens to, with its membership and 500 endpoints
// of this host that have names, against one with none.
func TestIdle(t *testing.T) {
	const over = time.Minute
	for _, many := range []int{0, 500} {
		t.Run(fmt.Sprint(many), func(t *testing.T) {
			fake := store.NewFake()
			h := newHost(t, "h1", fake.Peer(), t.TempDir())
			n := h.found(network("demo"))
			names := map[string][]string{}
			last := ""
			for i := range many {
				last = fmt.Sprintf("%064x", i)
				names[last] = []string{fmt.Sprint("project-service-", i), last[52:], "service"}
				h.Publish(n.UUID, endpoint(last, fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250)))
			}
			h.SetNames(names, true)
			h.Until("told", func() bool { return many == 0 || told(t, fake, last) })
			time.Sleep(3 * time.Second) // what a start leaves is done with
			cpu, bytes := used(t)
			time.Sleep(over)
			cpuThen, bytesThen := used(t)
			share := float64(cpuThen-cpu) / float64(over)
			per10s := float64(bytesThen-bytes) / (1 << 20) / over.Seconds() * 10
			t.Logf("%d endpoints: %.3f %% of a core, %.2f MB allocated in ten seconds", many, 100*share, per10s)
			if share > 0.002 {
				t.Errorf("%.3f %% of a core, want 0.2 at most", 100*share)
			}
		})
	}
}

// used is the processor time of this process and what it has allocated.
func used(t *testing.T) (cpu time.Duration, bytes uint64) {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), sample[0].Value.Uint64()
}
