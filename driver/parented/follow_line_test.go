package parented_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// cards is a line with a second card f0, at the other end of whose cable is another
// machine. Both machines are 10.9.0.1.
type cards struct {
	*line
	second string
}

func newCards(t *testing.T, direct bool) *cards {
	t.Helper()
	c := &cards{line: newLine(t), second: kerneltest.Namespace(t)}
	c.direct = direct
	c.host("ip", "link", "add", "f0", "type", "veth", "peer", "name", "f1", "netns", c.second)
	c.host("ip", "link", "set", "f0", "up")
	c.at(c.second, "ip", "link", "set", "f1", "up")
	c.at(c.second, "ip", "addr", "add", "10.9.0.1/24", "dev", "f1")
	c.at(c.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
	return c
}

// onCards tells a story with both ways to attach.
func onCards(t *testing.T, story func(c *cards)) {
	t.Helper()
	for name, direct := range map[string]bool{"docker": false, "direct": true} {
		t.Run(name, func(t *testing.T) { story(newCards(t, direct)) })
	}
}

// address is -o parent for the card that has this name now.
func (c *cards) address(card string) string {
	c.Helper()
	l, err := c.kernel.LinkByName(card)
	c.must(err)
	return "mac:" + l.MAC.String()
}

// rename gives cards other names, one after the other: from, to, from, to.
func (c *cards) rename(names ...string) {
	c.Helper()
	for i := 0; i < len(names); i += 2 {
		c.host("ip", "link", "set", names[i], "down")
		c.host("ip", "link", "set", names[i], "name", names[i+1])
		c.host("ip", "link", "set", names[i+1], "up")
	}
}

// swap gives the cards each other's names.
func (c *cards) swap() { c.Helper(); c.rename("e0", "tmp", "f0", "e0", "tmp", "f0") }

// reached makes sure that an address answers the machine on one cable and not that on the
// other one.
func (c *cards) reached(address, from, notFrom string) {
	c.Helper()
	c.talks(from, address)
	c.silent(notFrom, address)
}

// refused makes sure that a container does not get on network a, for that reason, and that
// weft tells it without one.
func (c *cards) refused(words string) {
	c.Helper()
	ep := driver.Endpoint{ID: id("9"), Network: id("a"), IPv4: netip.MustParsePrefix("10.9.0.9/24")}
	if _, err := c.CreateEndpoint(c.Context(), ep); err == nil || !strings.Contains(err.Error(), words) {
		c.Errorf("a container: %v, want %q", err, words)
	}
	c.reconciled(words)
}

// reconciled reconciles, and compares what is wrong with network a then.
func (c *cards) reconciled(want string) {
	c.Helper()
	_, err := c.Reconcile(c.Context(), driver.Full)
	c.must(err)
	if got := strings.Join(c.Troubles()[id("a")], "; "); want == "" && got != "" || !strings.Contains(got, want) {
		c.Errorf("troubles %q, want %q", got, want)
	}
}

// TestCardsSwapNames while weft runs, while it does not, and under a container: what is
// attached next is on the cable of the card that was meant, beside those that are there.
func TestCardsSwapNames(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	onCards(t, func(c *cards) {
		before := c.host("ip", "-o", "link")
		c.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", c.address("e0"), "attach", "direct"),
			network("b", "10.8.0.0/24", "mode", "macvlan", "parent", "f0"))
		c.swap()
		c.container("1", "a", "10.9.0.9/24")
		c.reached("10.9.0.9", c.machine, c.second)
		c.end("1", "a")

		c.stop()
		c.swap()
		c.start()
		c.reconciled("")
		one := c.container("1", "a", "10.9.0.2/24")
		c.reached("10.9.0.2", c.machine, c.second)

		c.swap()
		c.container("2", "a", "10.9.0.3/24")
		c.reached("10.9.0.3", c.machine, c.second)
		c.talks(one, "10.9.0.3")
		c.talks(one, "10.9.0.1")
		c.reconciled("")
		c.swap()
		c.restart()
		c.reconciled("")
		c.container("3", "a", "10.9.0.4/24")
		c.reached("10.9.0.4", c.machine, c.second)
		for _, letter := range []string{"1", "2", "3"} {
			c.end(letter, "a")
		}
		c.remove("a", "b")
		c.as(before)
	})
}

// TestNamesSwap: a name is a name, and so is the device of a route; that containers of
// before are on another line is told until they are not.
func TestNamesSwap(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	onCards(t, func(c *cards) {
		c.host("ip", "route", "add", "10.77.0.0/16", "dev", "e0")
		c.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24", "attach", "direct"),
			network("b", "10.8.0.0/24", "mode", "macvlan", "parent", "f0"))
		c.container("1", "a", "10.9.0.2/24")
		c.container("2", "b", "10.8.0.2/24")
		c.reconciled("")
		c.swap()
		c.host("ip", "route", "add", "10.77.0.0/16", "dev", "e0")
		c.reconciled("the container of endpoint 111111111111 (10.9.0.2) is on f0, and the network on e0 by now: restart it")
		if got := strings.Join(c.Troubles()[id("b")], "; "); !strings.Contains(got, "(10.8.0.2) is on e0, and the network on f0 by now: restart it") {
			t.Errorf("troubles of b: %q", got)
		}
		c.end("1", "a")
		c.container("3", "a", "10.9.0.3/24")
		c.reached("10.9.0.3", c.second, c.machine)
		c.restart()
		c.reconciled("")
		if len(c.Troubles()[id("b")]) != 1 {
			t.Errorf("troubles of b after a restart: %q", c.Troubles()[id("b")])
		}
	})
}

// TestCardIsRenamed under a container, and then lost.
func TestCardIsRenamed(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	onCards(t, func(c *cards) {
		c.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", c.address("e0"), "attach", "direct"))
		c.container("1", "a", "10.9.0.2/24")
		c.rename("e0", "lan0", "f0", "e0")
		c.reconciled("")
		c.container("2", "a", "10.9.0.3/24")
		for _, address := range []string{"10.9.0.2", "10.9.0.3"} {
			c.reached(address, c.machine, c.second)
		}
		c.host("ip", "link", "delete", "lan0")
		c.refused("-o parent interface was not found on the host: mac:")
	})
}

// TestRouteMoves: a network goes with its route once its containers are gone, over a
// restart of weft.
func TestRouteMoves(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	onCards(t, func(c *cards) {
		before := c.host("ip", "-o", "link")
		c.host("ip", "route", "add", "10.77.0.0/16", "dev", "e0")
		c.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24", "attach", "direct"))
		c.container("1", "a", "10.9.0.2/24")
		c.host("ip", "route", "replace", "10.77.0.0/16", "dev", "f0")
		const words = "its containers on this host (1) are on e0, and -o parent=route:10.77.7.0/24 means f0 by now"
		c.refused(words)
		c.restart()
		c.refused(words)
		c.reached("10.9.0.2", c.machine, c.second)
		c.end("1", "a")
		c.container("2", "a", "10.9.0.3/24")
		c.reached("10.9.0.3", c.second, c.machine)
		c.reconciled("")
		c.end("2", "a")
		c.remove("a")
		c.as(before)
	})
}

// TestCardsOfATrunk: sub-interfaces stay with their card while they last, and are made on
// the card that is meant when they are made again; those of several networks are counted.
func TestCardsOfATrunk(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan")
	onCards(t, func(c *cards) {
		before := c.host("ip", "-o", "link")
		m100 := c.vlanMachine("100", "10.5.0.1/24")
		first := c.address("e0")
		c.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", first, "vlan", "100", "attach", "direct"),
			network("b", "10.6.0.0/24", "mode", "macvlan", "parent", first, "vlan", "100"))
		one := c.container("1", "a", "10.5.0.2/24")
		c.swap() // what is there stays, with its name
		c.reconciled("")
		c.container("2", "a", "10.5.0.3/24")
		c.talks(m100, "10.5.0.3")
		c.talks(one, "10.5.0.3")
		c.end("1", "a")
		c.end("2", "a")

		c.stop()
		c.host("ip", "link", "delete", "e0.100") // as a boot does
		c.start()
		c.create(network("c", "10.7.0.0/24", "mode", "macvlan", "parent", "e0.100"))
		c.container("3", "a", "10.5.0.4/24")
		c.talks(m100, "10.5.0.4")
		c.reconciled("")
		there := func(want string) {
			t.Helper()
			var subs []string
			for line := range strings.Lines(c.host("ip", "-o", "link", "show", "type", "vlan")) {
				subs = append(subs, strings.TrimSuffix(strings.Fields(line)[1], ":"))
			}
			slices.Sort(subs)
			if got := strings.Join(subs, " "); got != want {
				t.Errorf("sub-interfaces %q, want %q", got, want)
			}
		}
		there("e0.100@e0 f0.100@f0")
		c.restart()
		c.end("3", "a")
		c.remove("a")
		there("e0.100@e0 f0.100@f0")
		c.remove("c")
		there("f0.100@f0")
		c.remove("b")
		there("")
		c.swap()
		c.as(before)
	})
}
