package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/ipam"
)

// asker probes on a real line.
type asker struct {
	kernel    *kernel.Host
	namespace string
}

// Probe asks from the test's namespace.
func (a asker) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]ipam.Machine, error) {
	out := map[netip.Addr]ipam.Machine{}
	err := kerneltest.Within(a.namespace, func() error {
		found, err := a.kernel.Probe(ctx, device, mark, addrs)
		for addr, who := range found {
			out[addr] = ipam.Machine(who)
		}
		return err
	})
	return out, err
}

// TestThousandConflicts: machines have 1,000 addresses of eight pools, seeded at random, on
// a real line. Whoever comes gets each of the others once and none of those, and every one
// of the thousand is found before somebody gets it.
func TestThousandConflicts(t *testing.T) {
	const each, crowd = 125, 16
	host, machine := kerneltest.Host(t), kerneltest.Namespace(t)
	kerneltest.Run(t, "", "ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1", "netns", machine)
	kerneltest.Run(t, "", "ip", "link", "set", "e0", "up")
	kerneltest.Run(t, machine, "ip", "link", "set", "e1", "up")
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())

	var batch strings.Builder
	subnets, foreign := map[string]netip.Prefix{}, map[netip.Addr]bool{}
	for i := range 8 {
		p := netip.MustParsePrefix(fmt.Sprintf("10.9.%d.0/24", i))
		if i%2 == 1 {
			p = netip.MustParsePrefix(fmt.Sprintf("fd09:%d::/120", i))
		}
		subnets[strings.Repeat(fmt.Sprint(i), 64)] = p
		random := rand.New(rand.NewPCG(uint64(i), 6))
		for _, n := range random.Perm(253)[:each] { // neither the gateway nor the last one
			raw := p.Addr().AsSlice()
			raw[len(raw)-1] = byte(n + 2)
			a, _ := netip.AddrFromSlice(raw)
			foreign[a] = true
			fmt.Fprintf(&batch, "addr add %s/%d dev e1 nodad\n", a, p.Bits())
		}
	}
	file := filepath.Join(t.TempDir(), "addresses")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	kerneltest.Run(t, machine, "ip", "-batch", file)

	h := newHost(t, func(c *ipam.Config) {
		c.Now = time.Now
		c.Prober, c.Line = asker{host, own}, func(string) string { return "e0" }
	})
	run(t, h.IPAM)
	var mu sync.Mutex
	given := map[netip.Addr]bool{}
	var all sync.WaitGroup
	for network, p := range subnets {
		pool := h.subnet(t, p.String())
		h.take(t, ipam.AddressRequest{PoolID: pool, Gateway: true})
		if err := h.Bind(t.Context(), network, p); err != nil {
			t.Fatal(err)
		}
		for range crowd {
			all.Go(func() {
				for {
					a, err := h.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: pool})
					if errors.Is(err, ipam.ErrExhausted) {
						return
					}
					mu.Lock()
					switch {
					case err != nil:
						t.Error(err)
					case foreign[a.Addr()], given[a.Addr()]:
						t.Errorf("%s was given (a machine has it: %t)", a, foreign[a.Addr()])
					default:
						given[a.Addr()] = true
					}
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	}
	all.Wait()
	found := 0
	for _, v := range h.View() {
		for _, f := range v.Foreigners {
			if !foreign[f.Address] || f.Held {
				t.Errorf("%+v", f)
			}
			found++
		}
	}
	// IPv4 has its last address for broadcasts, IPv6 not.
	if want := 4*(253-each) + 4*(254-each); found != 8*each || len(given) != want {
		t.Errorf("%d conflicts were found and %d addresses given, want %d and %d", found, len(given), 8*each, want)
	}
}
