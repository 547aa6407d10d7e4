package ipam_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/ipam"
)

// BenchmarkRequestAddress measures a request, durable in the journal, in a /16
// with 200 addresses in use. The release is not timed.
func BenchmarkRequestAddress(b *testing.B) {
	h := newHost(b)
	id := h.subnet(b, "10.1.0.0/16")
	for range 200 {
		h.take(b, ipam.AddressRequest{PoolID: id})
	}
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		a := h.take(b, ipam.AddressRequest{PoolID: id, Name: "web"})
		took = append(took, time.Since(start))
		b.StopTimer()
		if err := h.ReleaseAddress(context.Background(), id, a); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
