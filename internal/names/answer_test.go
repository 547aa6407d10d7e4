package names

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// ask is a question with recursion desired, and EDNS if udp is not 0.
func ask(t testing.TB, name string, kind dnsmessage.Type, udp int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 0xabcd, RecursionDesired: true})
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(b.StartQuestions())
	must(b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}))
	if udp != 0 {
		must(b.StartAdditionals())
		var h dnsmessage.ResourceHeader
		must(h.SetEDNS0(udp, dnsmessage.RCodeSuccess, true))
		must(b.OPTResource(h, dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 10, Data: []byte("cookie12")}}}))
	}
	out, err := b.Finish()
	must(err)
	return out
}

// townOf is what a container of both networks sees.
func townOf() *scope { return newScope(town(), Container{Networks: []string{"n1", "n2"}}) }

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind dnsmessage.Type
		// want is the answers, "pass", or "none" for an empty reply.
		want string
		ttl  uint32
	}{
		{"redis.", dnsmessage.TypeA, "10.0.0.3 10.0.0.4 10.0.0.5", remoteTTL},
		{"Redis.MyNet.", dnsmessage.TypeA, "10.0.0.3 10.0.0.4 10.0.0.5", remoteTTL},
		{"flask.", dnsmessage.TypeA, "10.0.0.2", localTTL},
		{"flask.", dnsmessage.TypeAAAA, "fd00::2", localTTL},
		{"redis.", dnsmessage.TypeAAAA, "none", 0},
		{"six.", dnsmessage.TypeA, "none", 0},
		{"redis.", dnsmessage.TypeMX, "none", 0},
		{"redis.", dnsmessage.TypeTXT, "pass", 0},
		{"redis.", dnsmessage.TypeSRV, "pass", 0},
		{"redis.", dnsmessage.TypeALL, "pass", 0},
		{"redis.", dnsmessage.TypePTR, "pass", 0},
		{"example.com.", dnsmessage.TypeA, "pass", 0},
		{"example.com.", dnsmessage.TypeMX, "pass", 0},
		{".", dnsmessage.TypeA, "pass", 0},
		{"3.0.0.10.In-Addr.Arpa.", dnsmessage.TypePTR, "redis.mynet.", remoteTTL},
		{"2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, "Flask.mynet.", localTTL},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Flask.mynet.", localTTL},
		{"3.0.0.10.in-addr.arpa.", dnsmessage.TypeA, "pass", 0},
		{"9.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, "pass", 0},
	} {
		for _, udp := range []int{0, 1232} {
			t.Run(fmt.Sprintf("%s%s/%d", tt.name, tt.kind, udp), func(t *testing.T) {
				query := ask(t, tt.name, tt.kind, udp)
				out, verdict := Answer([]byte("kept"), query, false, townOf(), 0)
				if tt.want == "pass" {
					if verdict != Pass || string(out) != "kept" {
						t.Fatalf("verdict %v, %q, want to pass it on", verdict, out)
					}
					return
				}
				if verdict != Reply {
					t.Fatalf("verdict %v, want a reply", verdict)
				}
				m := unpack(t, bytes.TrimPrefix(out, []byte("kept")))
				want := dnsmessage.Header{ID: 0xabcd, Response: true, RecursionDesired: true, RecursionAvailable: true}
				if m.Header != want {
					t.Errorf("header %v, want %v", m.Header, want)
				}
				if len(m.Questions) != 1 || m.Questions[0].Name.String() != tt.name || m.Questions[0].Type != tt.kind {
					t.Errorf("questions %v", m.Questions)
				}
				if got := answersOf(t, m, tt.name, tt.ttl); got != tt.want {
					t.Errorf("answers %s, want %s", got, tt.want)
				}
				if len(m.Authorities) != 0 || len(m.Additionals) != min(udp, 1) {
					t.Errorf("authorities %v, additionals %v", m.Authorities, m.Additionals)
				}
				for _, a := range m.Additionals {
					if opt, ok := a.Body.(*dnsmessage.OPTResource); !ok || len(opt.Options) != 0 || a.Header.TTL != 0 {
						t.Errorf("additional %v, want an OPT record with nothing in it", a)
					}
				}
			})
		}
	}
}

func unpack(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%v: %x", err, b)
	}
	return m
}

// answersOf are the answers' data; "none" if there are none.
func answersOf(t testing.TB, m dnsmessage.Message, name string, ttl uint32) string {
	t.Helper()
	var out []string
	for _, a := range m.Answers {
		if a.Header.Name.String() != name || a.Header.Class != dnsmessage.ClassINET || a.Header.TTL != ttl {
			t.Errorf("header of an answer %v, want %s for %d s", a.Header, name, ttl)
		}
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			out = append(out, b.PTR.String())
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, " ")
}

func TestAddressesTakeTurns(t *testing.T) {
	first := map[string]int{}
	for turn := range uint32(30) {
		out, _ := Answer(nil, ask(t, "redis.", dnsmessage.TypeA, 0), false, townOf(), turn-15)
		got := strings.Fields(answersOf(t, unpack(t, out), "redis.", remoteTTL))
		first[got[0]]++
		slices.Sort(got)
		if strings.Join(got, " ") != "10.0.0.3 10.0.0.4 10.0.0.5" {
			t.Errorf("turn %d: %v", turn, got)
		}
	}
	if first["10.0.0.3"] < 9 || first["10.0.0.4"] < 9 || first["10.0.0.5"] < 9 {
		t.Errorf("came first: %v", first)
	}
}

func TestTruncation(t *testing.T) {
	b := NewBook()
	n := Network{ID: "n1", Name: "mynet"}
	for i := range 3000 {
		n.Endpoints = append(n.Endpoints, Endpoint{Host: "h2", ID: fmt.Sprint(i), Names: []string{"all"}, Addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}),
		}})
	}
	b.SetNetwork(n)
	scope := newScope(b, Container{Networks: []string{"n1"}})
	for _, tt := range []struct {
		kind      dnsmessage.Type
		tcp       bool
		udp       int
		most      int // octets
		least     int // answers
		truncated bool
	}{
		{dnsmessage.TypeA, false, 0, 512, 30, true},
		{dnsmessage.TypeA, false, 100, 512, 29, true},
		{dnsmessage.TypeA, false, 1232, 1232, 74, true},
		{dnsmessage.TypeAAAA, false, 1232, 1232, 42, true},
		{dnsmessage.TypeA, false, 65535, 4096, 250, true},
		{dnsmessage.TypeA, true, 0, 65535, 3000, false},
		{dnsmessage.TypeAAAA, true, 1232, 65535, 2338, true},
	} {
		out, verdict := Answer(nil, ask(t, "all.mynet.", tt.kind, tt.udp), tt.tcp, scope, 7)
		m := unpack(t, out)
		if verdict != Reply || len(out) > tt.most || len(m.Answers) < tt.least || m.Truncated != tt.truncated || (len(m.Additionals) == 1) != (tt.udp > 0) {
			t.Errorf("%v: verdict %v, %d octets, %d answers, %d additionals, truncated %v", tt, verdict, len(out), len(m.Answers), len(m.Additionals), m.Truncated)
		}
	}
}

// Messages that are not a plain question, by what is done with them.
func TestOddMessages(t *testing.T) {
	plain := ask(t, "redis.", dnsmessage.TypeA, 0)
	edns := ask(t, "redis.", dnsmessage.TypeA, 1232)
	set := func(of []byte, at int, to ...byte) []byte {
		out := slices.Clone(of)
		copy(out[at:], to)
		return out
	}
	class := len(plain) - 1
	for name, tt := range map[string]struct {
		message []byte
		want    Verdict
	}{
		"nothing":                {nil, Drop},
		"half a header":          {plain[:7], Drop},
		"a reply":                {set(plain, 2, 0x81), Drop},
		"a header only":          {plain[:12], Pass},
		"half a question":        {plain[:15], Pass},
		"no question":            {set(plain, 4, 0, 0), Pass},
		"two questions":          {set(append(slices.Clone(plain), plain[12:]...), 4, 0, 2), Pass},
		"two said, one there":    {set(plain, 4, 0, 2), Pass},
		"class CHAOS":            {set(plain, class, 3), Pass},
		"class ANY":              {set(plain, class, 255), Pass},
		"a notification":         {set(plain, 2, 4<<3), Pass},
		"an update":              {set(plain, 2, 5<<3), Pass},
		"truncated":              {set(plain, 2, 3), Pass},
		"answers in a question":  {set(plain, 6, 0, 1), Pass},
		"authorities":            {set(plain, 8, 255, 255), Pass},
		"additionals not there":  {set(plain, 10, 0, 1), Pass},
		"a name that is a loop":  {append(slices.Clone(plain[:12]), 0xc0, 12, 0, 1, 0, 1), Pass},
		"EDNS":                   {edns, Reply},
		"EDNS of version 1":      {set(edns, len(plain)+6, 1), Pass},
		"EDNS for another name":  {set(append(slices.Clone(plain), "\x01x\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"...), 10, 0, 1), Pass},
		"EDNS twice":             {set(append(slices.Clone(edns), edns[len(plain):]...), 10, 0, 2), Pass},
		"EDNS that is cut off":   {edns[:len(edns)-1], Pass},
		"a signature":            {set(append(slices.Clone(plain), "\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x00"...), 10, 0, 1), Pass},
		"recursion not wanted":   {set(plain, 2, 0), Reply},
		"checking disabled":      {set(plain, 3, 0x10), Reply},
		"octets behind the last": {append(slices.Clone(plain), 0), Pass},
	} {
		t.Run(name, func(t *testing.T) {
			out, got := Answer(nil, tt.message, false, townOf(), 0)
			if got != tt.want || (len(out) > 0) != (tt.want == Reply) {
				t.Fatalf("verdict %v, %x, want %v", got, out, tt.want)
			}
			if tt.want == Reply {
				if h := unpack(t, out).Header; h.RecursionDesired != (tt.message[2]&1 != 0) || h.CheckingDisabled != (tt.message[3]&0x10 != 0) {
					t.Errorf("the reply's header is %v", h)
				}
			}
		})
	}
}

// What no name in DNS can be is never asked for, nor given as an answer.
func TestNamesThatDNSCannotSay(t *testing.T) {
	b := NewBook()
	long := strings.Repeat("x", 64)
	b.SetNetwork(Network{ID: "n1", Name: "mynet", Endpoints: []Endpoint{
		{Host: "h2", ID: "e1", Names: []string{long, "ok"}, Addrs: addrs("10.0.0.3")},
		{Host: "h2", ID: "e2", Names: []string{strings.Repeat("y.", 140)}, Addrs: addrs("10.0.0.4")},
		{Host: "h2", ID: "e3", Names: []string{"a..b"}, Addrs: addrs("10.0.0.5")},
	}})
	scope := newScope(b, Container{Networks: []string{"n1"}})
	for _, a := range []string{"3", "4", "5"} {
		if out, v := Answer(nil, ask(t, a+".0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 0), false, scope, 0); v != Pass {
			t.Errorf("10.0.0.%s: verdict %v, %x", a, v, out)
		}
	}
	if _, v := Answer(nil, ask(t, "ok.", dnsmessage.TypeA, 0), false, scope, 0); v != Reply {
		t.Errorf("its other name: %v", v)
	}
}

func TestFailure(t *testing.T) {
	m := unpack(t, Failure(nil, ask(t, "example.com.", dnsmessage.TypeTXT, 1232)))
	if m.RCode != dnsmessage.RCodeServerFailure || !m.Response || m.ID != 0xabcd || len(m.Questions) != 1 {
		t.Errorf("%v", m)
	}
	for _, odd := range []string{"", "abcd81000001000000000000", "abcd01000000000000000000", "abcd"} {
		b, _ := hex.DecodeString(odd)
		if out := Failure(nil, b); len(out) != 0 {
			t.Errorf("%s: %x", odd, out)
		}
	}
}

// FuzzAnswer feeds what a container may send. Every reply can be read, belongs to its
// question, and is within the bounds that the question sets.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"redis.", "example.com.", "3.0.0.10.in-addr.arpa.", "my_db.example.com.mynet."} {
		f.Add(ask(f, name, dnsmessage.TypeA, 0), false, uint32(0))
		f.Add(ask(f, name, dnsmessage.TypePTR, 4096), true, uint32(1))
		f.Add(ask(f, name, dnsmessage.TypeAAAA, 512), false, uint32(1<<32-1))
	}
	scope := townOf()
	f.Fuzz(func(t *testing.T, message []byte, tcp bool, turn uint32) {
		before := slices.Clone(message)
		out, verdict := Answer(nil, message, tcp, scope, turn)
		failure := Failure(nil, message)
		if !bytes.Equal(before, message) {
			t.Fatal("the message was changed")
		}
		if len(failure) > len(message)+4 {
			t.Fatalf("a failure of %d octets for %d", len(failure), len(message))
		}
		if verdict != Reply {
			if len(out) != 0 {
				t.Fatalf("verdict %v with %x", verdict, out)
			}
			return
		}
		if !tcp && len(out) > maxUDP || len(out) > len(message)+512 {
			t.Fatalf("%d octets for a question of %d", len(out), len(message))
		}
		var q, m dnsmessage.Message
		if err := q.Unpack(message); err != nil {
			t.Fatalf("a reply to what cannot be read: %v", err)
		}
		if err := m.Unpack(out); err != nil {
			t.Fatalf("a reply that cannot be read: %v", err)
		}
		if m.ID != q.ID || !m.Response || len(m.Questions) != 1 || m.Questions[0] != q.Questions[0] || m.RCode != 0 {
			t.Fatalf("%v is no reply to %v", m, q)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	query := ask(b, "redis.", dnsmessage.TypeA, 0)
	scope := townOf()
	buf := make([]byte, 0, maxUDP)
	b.ReportAllocs()
	for b.Loop() {
		Answer(buf, query, false, scope, 0)
	}
}
