package kernel_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/weft-net/weft/internal/kernel"
)

// BenchmarkAttach is the kernel's part of one container: attach and detach.
func BenchmarkAttach(b *testing.B) {
	host := inNamespace(b)
	ns := sandbox(b)
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
	host := inNamespace(b)
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
