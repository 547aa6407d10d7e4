package firewall

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkPorts publishes and unpublishes ports of one endpoint, on an idle
// host and on one with ten thousand ports.
func BenchmarkPorts(b *testing.B) {
	for _, present := range []int{0, 10000} {
		for _, ports := range []int{1, 10} {
			b.Run(fmt.Sprintf("present=%d/ports=%d", present, ports), func(b *testing.B) {
				fw := benchNFT(b)
				ctx := context.Background()
				if err := fw.AddNetwork(ctx, weft0()); err != nil {
					b.Fatal(err)
				}
				if err := fw.AddPorts(ctx, somePorts("present", 20000, present), nil); err != nil {
					b.Fatal(err)
				}
				ps := somePorts("e", 100, ports)
				var removing int64
				for b.Loop() {
					if err := fw.AddPorts(ctx, ps, nil); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					start := b.Elapsed()
					b.StartTimer()
					if err := fw.RemovePorts(ctx, "e"); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					removing += int64(b.Elapsed() - start)
					b.StartTimer()
				}
				b.ReportMetric(float64(removing)/float64(b.N), "remove-ns/op")
			})
		}
	}
}

// benchNFT returns a firewall in a namespace that lasts as long as the benchmark.
func benchNFT(b *testing.B) *NFT {
	b.Helper()
	made := make(chan *NFT)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			b.Error(err)
			close(made)
			return
		}
		fw, err := New(Config{})
		if err != nil {
			b.Error(err)
		}
		made <- fw
	}()
	fw := <-made
	if fw == nil {
		b.FailNow()
	}
	b.Cleanup(func() { _ = fw.Close() })
	return fw
}

// BenchmarkNetworks adds and removes the only network of a host, which loads
// and deletes the table, and one beside another.
func BenchmarkNetworks(b *testing.B) {
	for _, present := range []bool{false, true} {
		b.Run(fmt.Sprintf("beside=%t", present), func(b *testing.B) {
			fw := benchNFT(b)
			ctx := context.Background()
			if present {
				if err := fw.AddNetwork(ctx, weft0()); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := fw.AddNetwork(ctx, weft1()); err != nil {
					b.Fatal(err)
				}
				if err := fw.RemoveNetwork(ctx, "n1"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMend looks at a host on which nothing is wrong.
func BenchmarkMend(b *testing.B) {
	for _, ports := range []int{10, 10000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			fw := benchNFT(b)
			ctx := context.Background()
			if err := fw.AddNetwork(ctx, weft0()); err != nil {
				b.Fatal(err)
			}
			if err := fw.AddPorts(ctx, somePorts("e", 20000, ports), nil); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if r, err := fw.Mend(ctx); err != nil || len(r) > 0 {
					b.Fatal(r, err)
				}
			}
		})
	}
}
