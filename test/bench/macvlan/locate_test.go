//go:build bench

package macvlan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/macvlan"
	"github.com/weft-net/weft/test/bench/board"
)

// TestLocate measures what a container waits until weft knows that its parent is still the
// one, on hosts with more and more devices and routes. It happens twice for each.
func TestLocate(t *testing.T) {
	const rounds = 200
	b := newBench(t)
	kerneltest.Run(t, "", "ip", "addr", "add", "10.9.0.9/24", "dev", "e0")
	card, err := b.host.LinkByName("e0")
	b.must(err)
	kind := macvlan.New(parented.Config{Kernel: b.host, Later: kernel.NewLater(b.host, 0, nil), Parents: parented.NewParents(b.host, nil)})
	table := &board.Board{}
	defer table.Print(t)
	have := 0
	for _, devices := range []int{10, 50, 200} {
		for ; have < devices; have += 2 {
			name, peer := fmt.Sprintf("v%d", have), fmt.Sprintf("v%d", have+1)
			kerneltest.Run(t, "", "ip", "link", "add", name, "up", "type", "veth", "peer", "name", peer)
			kerneltest.Run(t, "", "ip", "link", "set", peer, "up")
			kerneltest.Run(t, "", "ip", "addr", "add", fmt.Sprintf("10.100.%d.1/24", have), "dev", name)
		}
		for _, words := range []string{"e0", "mac:" + card.MAC.String(), "route:10.9.0.0/24", "none,mac:" + card.MAC.String()} {
			n := driver.Network{Options: map[string]string{parented.OptParent: words}, Device: "e0", Parent: "e0"}
			var took []time.Duration
			ended := make(chan struct{})
			go func() { // as in TestAttach
				defer close(ended)
				for range rounds {
					begin := time.Now()
					_, moved, err := kind.Locate(n)
					took = append(took, time.Since(begin))
					if b.must(err); moved {
						t.Errorf("%s is another device", words)
					}
				}
			}()
			<-ended
			table.Note(fmt.Sprintf("parent=%s, %d devices, p50, p99", words, devices), "%v  %v", board.Median(took), board.Quantile(took, 0.99))
		}
	}
}
