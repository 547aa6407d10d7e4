//go:build linux

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClone copies a disk: what was on it is there, what tells the hosts apart is not
// the copy's.
func TestClone(t *testing.T) {
	needRoot(t)
	l := New(t, Config{Hosts: []HostConfig{{NoEngine: true}, {NoEngine: true}}})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	h1.MustRun(t, "sh", "-c", "mkdir /var/lib/weft && echo one >/var/lib/weft/journal")
	h2.MustRun(t, "sh", "-c", "echo two >/root/gone")
	check(t, os.WriteFile(filepath.Join(h1.disk, "docker", "state"), nil, 0o644))
	mac := func(h *Host) string { return h.MustRun(t, "cat", "/sys/class/net/eth0/address") }
	macs := [2]string{mac(h1), mac(h2)}
	if macs[0] == macs[1] || !strings.HasPrefix(macs[0], "02:") {
		t.Errorf("the hosts have the MACs %v", macs)
	}
	if how := h1.MustRun(t, "cat", "/sys/class/net/eth0/addr_assign_type"); how != "3" {
		t.Errorf("eth0 got its MAC by way %s, not 3: it is not as the network card of a container", how)
	}
	if err := h1.CloneTo(t.Context(), h2); err == nil || !strings.Contains(err.Error(), "power both off") {
		t.Errorf("a running host was copied: %v", err)
	}
	check(t, h1.PowerOff(t.Context()))
	check(t, h2.PowerOff(t.Context()))
	check(t, h1.CloneTo(t.Context(), h2))
	check(t, h1.Boot(t.Context()))
	check(t, h2.Boot(t.Context()))
	const look = "cat /var/lib/weft/journal; ls /root/gone /var/lib/docker/state 2>/dev/null; hostname; cat /etc/hostname; :"
	if out := h2.MustRun(t, "sh", "-c", look); out != "one\n/var/lib/docker/state\nh2\nh2" {
		t.Errorf("the copy has:\n%s", out)
	}
	if now := [2]string{mac(h1), mac(h2)}; now != macs {
		t.Errorf("after a boot the MACs are %v, not %v", now, macs)
	}
	if h1.MustRun(t, "cat", "/etc/machine-id") != h2.MustRun(t, "cat", "/etc/machine-id") {
		t.Error("a copy of a disk has another machine-id")
	}
}
