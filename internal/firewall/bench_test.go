package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

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

// BenchmarkTunnels is a request and its response between two containers behind a
// tunnel, by turns with the tunnels' table and without; ratio is the median of the
// turns, again that of two turns without, which says what a ratio is worth.
func BenchmarkTunnels(b *testing.B) {
	l := newOverlayLab(b, false)
	ctx := context.Background()
	without := overlayNetwork()
	without.Gateways = nil
	var conns [2]*net.UDPConn
	for i, c := range l.containers {
		at := func(n int) *net.UDPAddr {
			return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 5, 0, byte(11 + n)}), 7000))
		}
		if err := c.do(func() (err error) {
			conns[i], err = net.DialUDP("udp4", at(i), at(1-i))
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	go func() {
		buf := make([]byte, 8)
		for {
			if _, err := conns[1].Read(buf); err != nil {
				return
			}
			_, _ = conns[1].Write(buf[:1])
		}
	}()
	buf := make([]byte, 8)
	turn := func(n Network) float64 {
		for _, fw := range l.firewalls {
			if err := fw.AddNetwork(ctx, n); err != nil {
				b.Fatal(err)
			}
		}
		var start time.Time
		for i := range 3000 {
			if i == 1000 { // a change of rules is felt for a while
				start = time.Now()
			}
			_ = conns[0].SetReadDeadline(time.Now().Add(reachTimeout))
			if _, err := conns[0].Write(buf[:1]); err != nil {
				b.Fatal(err)
			}
			if _, err := conns[0].Read(buf); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start).Seconds()
	}
	var ratios, again []float64
	for b.Loop() {
		before, with, after := turn(without), turn(overlayNetwork()), turn(without)
		ratios = append(ratios, 2*with/(before+after))
		again = append(again, after/before)
	}
	_, _ = conns[0].Close(), conns[1].Close()
	for name, rs := range map[string][]float64{"ratio": ratios, "again": again} {
		slices.Sort(rs)
		b.ReportMetric(rs[len(rs)/2], name)
	}
}

// BenchmarkShortcuts is a container that comes and goes, and an address elsewhere that
// does, beside 50 containers here and 1,000 there.
func BenchmarkShortcuts(b *testing.B) {
	ns := newNamespace(b)
	ctx := testContext(b)
	fw := newNFT(b, ns)
	n := tunnelled(network("n0", "weft0", "10.1.0.0/24", ""))
	full := Shortcuts{Network: "n0", Tunnel: ns.device(b, n.Tunnel)}
	for i := range 51 {
		full.Here = append(full.Here, Station{somewhere(i), ns.device(b, fmt.Sprintf("wv-%d", i))})
	}
	for i := range 1001 {
		full.There = append(full.There, somewhere(1000+i))
	}
	fewerHere, fewerThere := full, full
	fewerHere.Here, fewerThere.There = full.Here[:50], full.There[:1000]
	if err := errors.Join(fw.AddNetwork(ctx, n), fw.SetShortcuts(ctx, full)); err != nil {
		b.Fatal(err)
	}
	for name, less := range map[string]Shortcuts{"here": fewerHere, "there": fewerThere} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := errors.Join(fw.SetShortcuts(b.Context(), less), fw.SetShortcuts(b.Context(), full)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
