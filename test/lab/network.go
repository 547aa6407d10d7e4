//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

const (
	// outsideIndex gives Lab.Outside the addresses .200 and ::200.
	outsideIndex = 190
	indexOffset  = 10
)

// Gateway4 and Gateway6 are the addresses of the switch, the default route of
// every host.
const (
	Gateway4 = "10.77.0.1"
	Gateway6 = "fd77::1"
)

func addressesOf(index int) (v4, v6 netip.Addr) {
	n := index + indexOffset
	return netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", n)),
		netip.MustParseAddr(fmt.Sprintf("fd77::%d", n))
}

func switchName(id string) string { return "weft-lab-" + id }

// addSwitch makes the namespace that joins the hosts.
func (l *Lab) addSwitch(ctx context.Context) error {
	ns := switchName(l.ID)
	if _, err := machine(ctx, "ip", "netns", "add", ns); err != nil {
		return err
	}
	const script = `
		ip link set lo up
		ip link add br0 type bridge mcast_snooping 0
		for f in iptables ip6tables arptables; do
			[ ! -e /proc/sys/net/bridge/bridge-nf-call-$f ] || echo 0 >/proc/sys/net/bridge/bridge-nf-call-$f
		done
		echo 0 >/proc/sys/net/ipv6/conf/br0/accept_dad
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		ip addr add $0/24 dev br0
		ip addr add $1/64 dev br0 nodad
		ip link set br0 up`
	_, err := l.Switch(ctx, "sh", "-ec", script, Gateway4, Gateway6)
	return err
}

// Switch runs a command of the machine in the namespace of the switch, where
// the bridge br0 has one port for every host, of the host's name.
func (l *Lab) Switch(ctx context.Context, args ...string) (string, error) {
	return machine(ctx, append([]string{"nsenter", "--net=/run/netns/" + switchName(l.ID), "--"}, args...)...)
}

func switchExists(id string) bool {
	_, err := os.Stat("/run/netns/" + switchName(id))
	return err == nil
}

func deleteSwitch(ctx context.Context, id string) error {
	if !switchExists(id) {
		return nil
	}
	_, err := machine(ctx, "ip", "netns", "delete", switchName(id))
	return err
}

// mac is the address of eth0, locally administered. It is the same at every boot, as
// that of a card is, and no other host on the machine has it.
func (h *Host) mac() string {
	sum := sha256.Sum256([]byte(h.lab.ID + "/" + h.Name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}.String()
}

// plugIn connects the host to the switch.
func (h *Host) plugIn(ctx context.Context) error {
	const port = `
		ip link add "$0" mtu $3 type veth peer name eth0 address $2 mtu $3 netns $1
		ip link set "$0" master br0 up`
	mtu := 1500
	if h.cfg.MTU > 0 {
		mtu = h.cfg.MTU
	}
	if _, err := h.lab.Switch(ctx, "sh", "-ec", port, h.Name, strconv.Itoa(h.initPID()), h.mac(), strconv.Itoa(mtu)); err != nil {
		return err
	}
	batch := []string{
		"link set lo up",
		"addr add " + h.IPv4.String() + "/24 dev eth0",
		"addr add " + h.IPv6.String() + "/64 dev eth0 nodad",
		"link set eth0 up",
		"route add default via " + Gateway4,
		"route add default via " + Gateway6,
	}
	_, err := h.RunInput(ctx, strings.NewReader(strings.Join(batch, "\n")), "ip", "-batch", "-")
	return err
}

// unplug removes the host's port of the switch.
func (h *Host) unplug(ctx context.Context) error {
	if !switchExists(h.lab.ID) {
		return nil
	}
	const script = `[ ! -e "/proc/sys/net/ipv4/conf/$0" ] || ip link delete "$0" 2>/dev/null || [ ! -e "/proc/sys/net/ipv4/conf/$0" ]`
	_, err := h.lab.Switch(ctx, "sh", "-c", script, h.Name)
	return err
}

// CutLink takes the host off the network, as if the cable were pulled: eth0
// loses its carrier.
func (h *Host) CutLink(ctx context.Context) error {
	_, err := h.lab.Switch(ctx, "ip", "link", "set", h.Name, "down")
	return err
}

// HealLink undoes CutLink.
func (h *Host) HealLink(ctx context.Context) error {
	_, err := h.lab.Switch(ctx, "ip", "link", "set", h.Name, "up")
	return err
}

// Sysctl sets a kernel parameter of the host until its next boot.
func (h *Host) Sysctl(ctx context.Context, name, value string) error {
	path := name
	if !strings.Contains(name, "/") {
		path = strings.ReplaceAll(name, ".", "/")
	}
	_, err := h.Run(ctx, "sh", "-c", `echo "$1" >"/proc/sys/$0"`, path, value)
	return err
}
