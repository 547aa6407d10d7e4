package parented_test

import (
	"testing"

	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestIPvlanOnTheLine: each mode with each flag, with a machine that is no container. Who
// relays nothing is no switch for containers in vepa mode.
func TestIPvlanOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "ipvlan")
	for _, mode := range []string{"l2", "l3", "l3s"} {
		for _, flag := range []string{"bridge", "private", "vepa"} {
			story := bothWays
			if flag != "bridge" { // how a device got there is no matter of flags
				story = directly
			}
			t.Run(mode+" "+flag, func(t *testing.T) {
				story(t, func(l *line) {
					before := l.host("ip", "-o", "link")
					l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
					l.at(l.machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
					l.create(network("a", "10.9.0.0/24 fd09::/64", "mode", "ipvlan", "parent", "e0", "attach", "direct", "ipvlan_mode", mode, "ipvlan_flag", flag))
					one, two := l.container("1", "a", "10.9.0.2/24", "fd09::2/64"), l.container("2", "a", "10.9.0.3/24", "fd09::3/64")
					if mode != "l2" {
						l.parentAnswers()
					}
					for _, c := range []string{one, two} {
						l.talks(c, "10.9.0.1")
						l.talks(c, "fd09::1")
					}
					l.talks(l.machine, "10.9.0.3")
					for _, other := range []string{"10.9.0.3", "fd09::3"} {
						if flag == "bridge" {
							l.talks(one, other)
						} else {
							l.silent(one, other)
						}
					}
					l.end("1", "a")
					l.end("2", "a")
					l.remove("a")
					if mode != "l2" {
						l.host("ip", "addr", "flush", "dev", "e0", "scope", "global")
					}
					l.as(before)
				})
			})
		}
	}
}

// parentAnswers shows the machine the way to containers whose host routes: by the parent.
func (l *line) parentAnswers() {
	l.Helper()
	l.host("ip", "addr", "add", "10.9.0.10/24", "dev", "e0")
	l.host("ip", "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
	for _, last := range []string{"2", "3"} {
		l.at(l.machine, "ip", "route", "add", "10.9.0."+last, "via", "10.9.0.10")
		l.at(l.machine, "ip", "route", "add", "fd09::"+last, "via", "fd09::10")
	}
}

// TestVEPA: where the switch sends frames back, containers in vepa mode reach each other
// by it, and those in private mode do not.
func TestVEPA(t *testing.T) {
	for _, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			kerneltest.Needs(t, kind)
			option := map[string]string{"macvlan": "macvlan_mode", "ipvlan": "ipvlan_flag"}[kind]
			for style, reach := range map[string]bool{"vepa": true, "private": false} {
				t.Run(style, func(t *testing.T) {
					directly(t, func(l *line) {
						l.at(l.machine, "ip", "link", "add", "switch", "type", "bridge")
						l.at(l.machine, "ip", "link", "set", "e1", "master", "switch")
						l.at(l.machine, "ip", "link", "set", "e1", "type", "bridge_slave", "hairpin", "on")
						l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "switch")
						l.at(l.machine, "ip", "link", "set", "switch", "up")
						l.create(network("a", "10.9.0.0/24", "mode", kind, "parent", "e0", "attach", "direct", option, style))
						one := l.container("1", "a", "10.9.0.2/24")
						l.container("2", "a", "10.9.0.3/24")
						l.talks(one, "10.9.0.1")
						if reach {
							l.talks(one, "10.9.0.3")
						} else {
							l.silent(one, "10.9.0.3")
						}
					})
				})
			}
		})
	}
}
