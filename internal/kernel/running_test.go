package kernel_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestRunning: a link that is called running forwards what comes from its other end, from
// the first frame on. The bridge notices later than the other end that the link is up.
func TestRunning(t *testing.T) {
	host := kerneltest.Host(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1", "2"} {
		if err := host.AddVeth(kernel.Veth{Host: "wv-" + n, Peer: "wp-" + n, Bridge: "wf-1"}); err != nil {
			t.Fatal(err)
		}
	}
	running := func(name string) bool {
		l, err := host.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Running
	}
	until := func(name string, want bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); running(name) != want; {
			if time.Now().After(end) {
				t.Fatalf("%s: running %t\n%s", name, !want, ip(t, "link"))
			}
		}
	}
	if running("wv-1") {
		t.Errorf("a new link is running before its other end is up:\n%s", ip(t, "link"))
	}
	set(t, "wp-2", unix.IFF_UP)
	until("wv-2", true)
	hears := listen(t, "wp-2")
	const rounds = 30
	for i := range rounds {
		set(t, "wp-1", unix.IFF_UP)
		until("wv-1", true)
		if err := host.Announce([]kernel.Neighbor{{Link: "wp-1", IP: addr("10.9.0.1"), MAC: station(i)}}); err != nil {
			t.Fatal(err)
		}
		if !hears(station(i)) {
			t.Fatalf("round %d: the bridge lost the first frame of a link that is running", i)
		}
		set(t, "wp-1", 0)
		until("wv-1", false)
	}
}

// set gives a device these flags, without the time that a command takes.
func set(t *testing.T, device string, flags uint16) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(device)
	if err == nil {
		req.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listen returns a function that waits for an ARP frame from a station on a device.
func listen(t *testing.T, device string) func(from kernel.MAC) bool {
	t.Helper()
	fd := kerneltest.Tap(t, "", device, unix.ETH_P_ARP)
	return func(from kernel.MAC) bool {
		var frame [64]byte
		for {
			n, _, err := unix.Recvfrom(fd, frame[:], 0)
			if err != nil || n < 12 {
				return false
			}
			if kernel.MAC(frame[6:12]) == from {
				return true
			}
		}
	}
}
