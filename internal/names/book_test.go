package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/net/dns/dnsmessage"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// town is two networks on three hosts; this one is h1.
func town() *Book {
	b := NewBook()
	b.SetNetwork(Network{ID: "n1", Name: "mynet", Endpoints: []Endpoint{
		{Host: "h1", ID: "e1", Local: true, Names: []string{"Flask", "0123456789ab", "web"}, Addrs: addrs("10.0.0.2", "fd00::2")},
		{Host: "h2", ID: "e2", Names: []string{"redis", "web"}, Addrs: addrs("10.0.0.3")},
		{Host: "h3", ID: "e3", Names: []string{"redis", "my_db.example.com"}, Addrs: addrs("10.0.0.4", "::ffff:10.0.0.5")},
		{Host: "h3", ID: "e5", Names: []string{"nowhere"}},
	}})
	b.SetNetwork(Network{ID: "n2", Name: "back.end", Endpoints: []Endpoint{
		{Host: "h2", ID: "e2", Names: []string{"redis"}, Addrs: addrs("10.9.0.3")},
		{Host: "h2", ID: "e4", Names: []string{"six"}, Addrs: addrs("fd09::6")},
	}})
	return b
}

func TestLookup(t *testing.T) {
	remote := func(list ...string) *Record { return record(false, list...) }
	for name, tt := range map[string]struct {
		networks, private []string
		ask               string
		want              *Record
	}{
		"a name of this host":            {networks: []string{"n1"}, ask: "flask", want: record(true, "10.0.0.2", "fd00::2")},
		"a short id":                     {networks: []string{"n1"}, ask: "0123456789ab", want: record(true, "10.0.0.2", "fd00::2")},
		"two hosts with one name":        {networks: []string{"n1"}, ask: "redis", want: remote("10.0.0.3", "10.0.0.4", "10.0.0.5")},
		"here and elsewhere":             {networks: []string{"n1"}, ask: "web", want: remote("10.0.0.2", "10.0.0.3", "fd00::2")},
		"with the network's name":        {networks: []string{"n1"}, ask: "flask.mynet", want: record(true, "10.0.0.2", "fd00::2")},
		"a network with a dot":           {networks: []string{"n1", "n2"}, ask: "six.back.end", want: remote("fd09::6")},
		"the first network has it":       {networks: []string{"n2", "n1"}, ask: "redis", want: remote("10.9.0.3")},
		"the named network has it":       {networks: []string{"n2", "n1"}, ask: "redis.mynet", want: remote("10.0.0.3", "10.0.0.4", "10.0.0.5")},
		"dots and underscores":           {networks: []string{"n1"}, ask: "my_db.example.com", want: remote("10.0.0.4", "10.0.0.5")},
		"dots and the network":           {networks: []string{"n1"}, ask: "my_db.example.com.mynet", want: remote("10.0.0.4", "10.0.0.5")},
		"of a network that it is not in": {networks: []string{"n1"}, ask: "six"},
		"naming such a network":          {networks: []string{"n1"}, ask: "redis.back.end"},
		"the wrong network":              {networks: []string{"n1", "n2"}, ask: "six.mynet"},
		"half of a network's name":       {networks: []string{"n1", "n2"}, ask: "six.end"},
		"nobody":                         {networks: []string{"n1", "n2"}, ask: "example.com"},
		"nothing behind the dot":         {networks: []string{"n1"}, ask: "flask."},
		"no name":                        {networks: []string{"n1"}, ask: ""},
		"a network nobody knows":         {networks: []string{"n3", "n1"}, ask: "flask", want: record(true, "10.0.0.2", "fd00::2")},
		"private":                        {networks: []string{"n1"}, private: []string{"Redis"}, ask: "redis"},
		"private with the network":       {networks: []string{"n1"}, private: []string{"redis"}, ask: "redis.mynet"},
		"no network":                     {ask: "redis"},
		"a name without an address":      {networks: []string{"n1"}, ask: "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			got := newScope(town(), Container{Networks: tt.networks, Private: tt.private}).Lookup(tt.ask, dnsmessage.TypeA)
			if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}

// As with the engine, a name is looked for in the next network where one knows no address
// of the family for it, and there is an empty answer only if none does.
func TestLookupOfAFamily(t *testing.T) {
	book := NewBook()
	for _, n := range []Network{
		{ID: "a4", Name: "one", Endpoints: []Endpoint{{Host: "h1", ID: "e1", Names: []string{"web", "web.two"}, Addrs: addrs("10.1.0.2")}}},
		{ID: "b6", Name: "two", Endpoints: []Endpoint{{Host: "h1", ID: "e2", Names: []string{"web"}, Addrs: addrs("10.2.0.2", "fd02::2")}}},
		{ID: "c6", Name: "two", Endpoints: []Endpoint{{Host: "h1", ID: "e3", Names: []string{"web"}, Addrs: addrs("fd03::2")}}},
		{ID: "none", Name: "two", Endpoints: []Endpoint{{Host: "h1", ID: "e4", Names: []string{"web"}}}},
		{ID: "engine4", Name: "mine", Engine: true, Endpoints: []Endpoint{{Host: "h1", ID: "e5", Names: []string{"web"}, Addrs: addrs("10.4.0.2")}}},
		{ID: "engine6", Name: "mine", Engine: true, Endpoints: []Endpoint{{Host: "h1", ID: "e6", Names: []string{"web"}, Addrs: addrs("fd04::2")}}},
	} {
		book.SetNetwork(n)
	}
	for _, tt := range []struct {
		networks, ask string
		kind          dnsmessage.Type
		want          string // "pass", or the answers
	}{
		{"a4 b6", "web.", dnsmessage.TypeAAAA, "fd02::2"},
		{"a4 b6", "web.", dnsmessage.TypeA, "10.1.0.2"},
		{"c6 a4", "web.", dnsmessage.TypeA, "10.1.0.2"},
		{"a4 none c6", "web.", dnsmessage.TypeAAAA, "fd03::2"},
		{"a4", "web.", dnsmessage.TypeAAAA, "none"},
		{"a4 none", "web.", dnsmessage.TypeAAAA, "none"},
		{"none b6", "web.", dnsmessage.TypeAAAA, "pass"},
		{"a4 b6", "web.", dnsmessage.TypeMX, "none"},
		{"none", "web.", dnsmessage.TypeMX, "pass"},
		// Two networks with one name, and a name that looks like one in a network.
		{"c6 b6", "web.two.", dnsmessage.TypeA, "10.2.0.2"},
		{"a4 b6", "web.one.", dnsmessage.TypeAAAA, "none"},
		{"a4 b6", "web.two.", dnsmessage.TypeAAAA, "none"},
		// Where the engine has more to say, it is asked.
		{"engine4 b6", "web.", dnsmessage.TypeAAAA, "pass"},
		{"a4 engine6", "web.", dnsmessage.TypeAAAA, "pass"},
		{"a4 engine4", "web.", dnsmessage.TypeAAAA, "none"},
		{"a4 engine4 b6", "web.", dnsmessage.TypeAAAA, "fd02::2"},
		{"a4 engine6", "web.", dnsmessage.TypeMX, "none"},
	} {
		scope := newScope(book, Container{Networks: strings.Fields(tt.networks)})
		got := "pass"
		if out, verdict := Answer(nil, ask(t, tt.ask, tt.kind, 0), false, scope, 0); verdict == Reply {
			got = answersOf(t, unpack(t, out), tt.ask, remoteTTL)
		}
		if got != tt.want {
			t.Errorf("%s %s in %s: %s, want %s", tt.ask, tt.kind, tt.networks, got, tt.want)
		}
	}
}

func record(local bool, list ...string) *Record {
	r := &Record{Local: local}
	for _, a := range addrs(list...) {
		if a.Is4() {
			r.IPv4 = append(r.IPv4, a)
		} else {
			r.IPv6 = append(r.IPv6, a)
		}
	}
	return r
}

func TestReverse(t *testing.T) {
	b := town()
	for _, tt := range []struct {
		networks []string
		ask      string
		want     string
		local    bool
	}{
		{[]string{"n1"}, "10.0.0.2", "Flask.mynet", true},
		{[]string{"n1"}, "fd00::2", "Flask.mynet", true},
		{[]string{"n1", "n2"}, "10.9.0.3", "redis.back.end", false},
		{[]string{"n1"}, "10.9.0.3", "", false},
		{[]string{"n1"}, "10.0.0.5", "redis.mynet", false},
		{[]string{"n1"}, "192.0.2.1", "", false},
	} {
		name, local := newScope(b, Container{Networks: tt.networks}).Reverse(netip.MustParseAddr(tt.ask))
		if name != tt.want || local != tt.local {
			t.Errorf("%s in %v: %q %v, want %q %v", tt.ask, tt.networks, name, local, tt.want, tt.local)
		}
	}
}

// Each change leaves what a book would have that was made of the result.
func TestChangesOfABook(t *testing.T) {
	b := town()
	renamed := Endpoint{Host: "h2", ID: "e2", Names: []string{"valkey"}, Addrs: addrs("10.0.0.3")}
	moved := Endpoint{Host: "h3", ID: "e3", Names: []string{"redis"}, Addrs: addrs("10.0.0.7")}
	gone := []Endpoint{{Host: "h1", ID: "e1"}, {Host: "h3", ID: "e5"}, {Host: "h9", ID: "e1"}}
	if !b.SetEndpoints("n1", renamed, moved) || !b.RemoveEndpoints("n1", gone...) {
		t.Error("a known network is said to be unknown")
	}
	if b.SetEndpoints("n3", renamed) || b.RemoveEndpoints("n3", Endpoint{Host: "h1", ID: "e1"}) {
		t.Error("an unknown network is said to be known")
	}
	b.RemoveNetwork("n2")
	b.RemoveNetwork("n2")

	want := NewBook()
	want.SetNetwork(Network{ID: "n1", Name: "mynet", Endpoints: []Endpoint{moved, renamed}})
	if d := cmp.Diff(want.Networks(), b.Networks(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	scope := newScope(b, Container{Networks: []string{"n1", "n2"}})
	for name, known := range map[string]bool{"flask": false, "web": false, "redis": true, "valkey": true, "my_db.example.com": false, "six": false} {
		if r := scope.Lookup(name, dnsmessage.TypeA); (r != nil) != known {
			t.Errorf("%s: %v, want known: %v", name, r, known)
		}
	}
	for a, known := range map[string]bool{"10.0.0.2": false, "10.0.0.4": false, "10.0.0.7": true, "10.0.0.3": true} {
		if name, _ := scope.Reverse(netip.MustParseAddr(a)); (name != "") != known {
			t.Errorf("%s: %q, want known: %v", a, name, known)
		}
	}
}

// A record that somebody has does not change under him.
func TestRecordsDoNotChange(t *testing.T) {
	b := town()
	scope := newScope(b, Container{Networks: []string{"n1"}})
	before := scope.Lookup("redis", dnsmessage.TypeA)
	kept := slices.Clone(before.IPv4)
	b.SetEndpoints("n1", Endpoint{Host: "h2", ID: "e2", Names: []string{"redis"}, Addrs: addrs("10.0.0.99")})
	if !slices.Equal(before.IPv4, kept) {
		t.Errorf("a record became %v", before.IPv4)
	}
	if after := scope.Lookup("redis", dnsmessage.TypeA); slices.Equal(after.IPv4, kept) {
		t.Error("the change is not seen")
	}
}

func TestAddressOf(t *testing.T) {
	for name, want := range map[string]string{
		"3.0.0.10.in-addr.arpa":        "10.0.0.3",
		"255.254.253.252.in-addr.arpa": "252.253.254.255",
		"0.0.10.in-addr.arpa":          "",
		"1.3.0.0.10.in-addr.arpa":      "",
		"03.0.0.10.in-addr.arpa":       "",
		"256.0.0.10.in-addr.arpa":      "",
		"+3.0.0.10.in-addr.arpa":       "",
		".in-addr.arpa":                "",
		"in-addr.arpa":                 "",
		"x.in-addr.arpa":               "",
		"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa":   "fd00::2",
		"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.ip6.arpa":     "",
		"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.g.ip6.arpa":   "",
		"2x0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa": "",
		"f.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa": "",
		"redis.mynet": "",
	} {
		got, ok := addressOf(name)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %v %v, want %q", name, got, ok, want)
		}
	}
}

func BenchmarkSetEndpointsOfThousands(b *testing.B) {
	book := NewBook()
	n := Network{ID: "n1", Name: "mynet"}
	for i := range 5000 {
		n.Endpoints = append(n.Endpoints, Endpoint{
			Host: "h2", ID: fmt.Sprint(i), Names: []string{fmt.Sprintf("c%d", i), fmt.Sprintf("%012x", i)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		})
	}
	book.SetNetwork(n)
	for i := 0; b.Loop(); i++ {
		book.SetEndpoints("n1", n.Endpoints[i%5000])
	}
}
