package kernel_test

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// BenchmarkAttach is the kernel's part of one container: attach and detach.
func BenchmarkAttach(b *testing.B) {
	host := kerneltest.Host(b)
	ns := kerneltest.Sandbox(b)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", Addrs: prefixes("10.9.0.1/24")}); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		a := kernel.Attachment{
			Veth:    kernel.Veth{Host: fmt.Sprintf("wv-%d", i), Bridge: "wf-1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
			Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24"),
			Sysctls: []kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}},
		}
		if _, err := host.Attach(a); err != nil {
			b.Fatal(err)
		}
		if err := host.Detach(a.Host); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := host.DeleteDoomed(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkDetach is one message.
func BenchmarkDetach(b *testing.B) {
	host := kerneltest.Host(b)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		v := kernel.Veth{Host: fmt.Sprintf("wv-%d", i), Peer: fmt.Sprintf("wp-%d", i), Bridge: "wf-1"}
		if err := host.AddVeth(v); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := host.Detach(v.Host); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := host.DeleteDoomed(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkAddPeers is a container that a host comes to reach, and one that goes, beside
// many others.
func BenchmarkAddPeers(b *testing.B) {
	for _, others := range []int{0, 200} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			kerneltest.Needs(b, "macvlan")
			host := kerneltest.Host(b)
			for _, args := range [][]string{
				{"link", "add", "e0", "type", "veth", "peer", "name", "e1"}, {"link", "set", "e0", "up"}, {"link", "set", "e1", "up"},
				{"addr", "add", "10.9.0.10/24", "dev", "e0"}, {"addr", "add", "fd09::10/64", "dev", "e0", "nodad"},
			} {
				if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
					b.Fatalf("ip %v: %v: %s", args, err, out)
				}
			}
			many := shim(kernel.Macvlan, "bridge")
			for i := range others {
				many.Peers = append(many.Peers, shim(kernel.Macvlan, "bridge", fmt.Sprintf("10.9.0.%d", i+20)).Peers...)
			}
			if err := host.EnsureShim(many); err != nil {
				b.Fatal(err)
			}
			one := shim(kernel.Macvlan, "bridge", "10.9.0.2", "fd09::2")
			for b.Loop() {
				if err := host.AddPeers(one); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := host.RemovePeers(one.Name, addresses("10.9.0.2", "fd09::2")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
