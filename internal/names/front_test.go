package names

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// askFront asks by UDP or TCP and returns the code and the first address.
func askFront(t *testing.T, network string, at netip.AddrPort, from, name string) string {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	} else {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(t.Context(), network, at.String())
	if err != nil {
		return "nobody"
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	q := ask(t, name, dnsmessage.TypeA, 0)
	if network == "tcp" {
		q = append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	}
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return "nobody"
	}
	reply := buf[:n]
	if network == "tcp" {
		reply = bytes.Clone(reply[frameHeader:])
	}
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	out := strings.TrimPrefix(m.RCode.String(), "RCode")
	for _, a := range m.Answers {
		if body, ok := a.Body.(*dnsmessage.AResource); ok {
			out += " " + netip.AddrFrom4(body.A).String()
		}
	}
	return out
}

// TestFronts: a network's names are answered at the host's address, to its containers
// only; everything else is refused, so that the next server is asked.
func TestFronts(t *testing.T) {
	free, err := net.Listen("tcp", "127.53.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.Addr().String())
	f := NewFronts(town(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	serving := func(want int) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for list, why := f.Serving(); len(list) != want; list, why = f.Serving() {
			if time.Now().After(deadline) {
				t.Fatalf("answered at %v, problems %v", list, why)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	front := Front{At: at, Network: "n1", From: netip.MustParsePrefix("127.53.0.0/24")}
	f.Set([]Front{front})
	deadline := time.Now().Add(10 * time.Second)
	for _, why := f.Serving(); !strings.Contains(why[at], "in use"); _, why = f.Serving() { // the listener of the test
		if time.Now().After(deadline) {
			t.Fatalf("somebody else has the address, and the problems are %v", why)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	serving(1)
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct{ from, name, want string }{
			{"127.53.0.2", "flask.", "Success 10.0.0.2"}, {"127.53.0.2", "flask.mynet.", "Success 10.0.0.2"},
			{"127.53.0.2", "example.com.", "Refused"}, {"127.53.0.2", "other.", "Refused"}, {"127.0.0.1", "flask.", "Refused"},
		} {
			if got := askFront(t, network, at, tt.from, tt.name); got != tt.want {
				t.Errorf("%s: %s asks for %s: %s instead of %s", network, tt.from, tt.name, got, tt.want)
			}
		}
	}
	var silent []net.Conn
	for range maxConns {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.53.0.3")}}).DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	if got := askFront(t, "tcp", at, "127.53.0.2", "flask."); got != "Success 10.0.0.2" {
		t.Errorf("beside somebody's silent connections: %s", got)
	}
	f.Set(nil)
	serving(0)
	for _, c := range silent {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection outlives its front")
		}
	}
	if got := askFront(t, "tcp", at, "127.53.0.2", "flask."); got != "nobody" {
		t.Errorf("after the end: %s", got)
	}
	f.Set([]Front{front})
	serving(1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := askFront(t, "tcp", at, "127.53.0.2", "flask."); got != "nobody" {
		t.Errorf("after weft: %s", got)
	}
}

// TestFrontFlood: one container's flood of questions keeps no other one from its names.
func TestFrontFlood(t *testing.T) {
	at := netip.MustParseAddrPort("127.53.1.1:53")
	f := NewFronts(town(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	f.Set([]Front{{At: at, Network: "n1", From: netip.MustParsePrefix("127.53.1.0/24")}})
	eventually(t, 10*time.Second, func() error {
		if got := askFront(t, "udp", at, "127.53.1.2", "flask."); got != "Success 10.0.0.2" {
			return errors.New(got)
		}
		return nil
	})
	for who, from := range map[string]string{"a container": "127.53.1.3", "a stranger": "127.53.2.3"} {
		stop := flood(t, from, at)
		lost := 0
		for i := 0; i < 100 && lost <= 2; i++ {
			if got := askFront(t, "udp", at, "127.53.1.2", "flask."); got != "Success 10.0.0.2" {
				lost++
			}
		}
		if sent := stop(); sent < quotaBurst {
			t.Errorf("%s sent %d questions meanwhile, which is no flood", who, sent)
		}
		if lost > 2 { // without a quota it is every second one
			t.Errorf("%d questions were lost beside the flood of %s", lost, who)
		}
	}
}

// flood asks without a pause until it is stopped, and returns how often it did.
func flood(t *testing.T, from string, at netip.AddrPort) (stop func() int) {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	message := ask(t, "flask.", dnsmessage.TypeA, 0)
	end, sent := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-end:
				sent <- n
				return
			default:
				_, _ = c.Write(message) // a full socket is not told
			}
		}
	}()
	return func() int {
		close(end)
		defer c.Close()
		return <-sent
	}
}
