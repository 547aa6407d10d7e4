package kernel_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestMachineUplinks reads which addresses somebody gave to links with a default
// route. /sys shows another namespace here, as it does in some containers.
func TestMachineUplinks(t *testing.T) {
	const set, set6, own = "02:aa:00:00:00:01", "02:aa:00:00:00:06", "02:aa:00:00:00:77"
	link := func(name, how string) string { return "link add " + name + " " + how + " type veth peer name p" + name }
	const up0, up6 = "link set u0 up", "link set u6 up"
	route := "route add default via 10.9.0.9"
	addr := "addr add 10.9.0.1/24 dev u0"
	for _, c := range []struct {
		name    string
		does    []string
		uplinks []string
	}{
		{"nothing", nil, nil},
		{"no default route yet", []string{link("u0", "address "+set), up0, addr}, nil},
		{"set", []string{link("u0", "address "+set), up0, addr, route}, []string{set}},
		{"set later", []string{link("u0", ""), "link set u0 address " + set, up0, addr, route}, []string{set}},
		{"random", []string{link("u0", ""), up0, addr, route}, nil},
		{"that of a port of a bridge", []string{
			link("u0", "address "+set), "link add br0 type bridge", "link set u0 master br0", up0, "link set br0 up",
			"addr add 10.9.0.1/24 dev br0", route,
		}, nil},
		{"both families", []string{
			link("u0", "address "+set), up0, addr, route, link("u6", "address "+set6), up6,
			"addr add fd09::1/64 dev u6 nodad", "-6 route add default via fd09::9",
		}, []string{set, set6}},
		{"two ways", []string{
			link("u0", "address "+set), up0, addr, link("u6", "address "+set6), up6, "addr add 10.8.0.1/24 dev u6",
			"route add default nexthop via 10.9.0.9 nexthop via 10.8.0.9",
		}, []string{set, set6}},
		{"nowhere", []string{"link set lo up", "route add unreachable default"}, nil},
		{"weft's own", []string{link("u0", "address "+own+" group 0x77656674"), up0, addr, route}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := kerneltest.Host(t)
			for _, command := range c.does {
				ip(t, strings.Fields(command)...)
			}
			m := host.Machine()
			if d := cmp.Diff(c.uplinks, m.Uplinks); d != "" {
				t.Errorf("uplinks (-want +got):\n%s\n%s", d, ip(t, "-d", "link"))
			}
			if len(m.MACs) > 0 {
				t.Errorf("virtual links have the permanent addresses %v", m.MACs)
			}
		})
	}
	t.Run("all links", func(t *testing.T) {
		host := kerneltest.Host(t)
		ip(t, strings.Fields("link add u0 address "+set+" type veth peer name p0 address "+own)...)
		if d := cmp.Diff([]string{set, own}, host.Machine().Links); d != "" {
			t.Errorf("links (-want +got):\n%s", d)
		}
	})
}
