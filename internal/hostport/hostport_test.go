package hostport_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/testmain"
)

// TestMain runs the tests in a network namespace of their own, so that no port
// of this machine is touched.
func TestMain(m *testing.M) { os.Exit(testmain.InNetwork(m, nil)) }

const tcp, udp, sctp = 6, 17, 132

func wants(target string, hosts ...string) []hostport.Want {
	var out []hostport.Want
	for _, h := range hosts {
		out = append(out, hostport.Want{Host: netip.MustParseAddr(h), Container: netip.MustParseAddrPort(target)})
	}
	return out
}

func newTable(t *testing.T) *hostport.Table {
	t.Helper()
	k, err := kernel.Open(kernel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	table := hostport.New(hostport.Config{Holder: k.PortHolder})
	t.Cleanup(func() {
		table.Close()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

func TestReserve(t *testing.T) {
	table := newTable(t)
	got, err := table.Reserve(hostport.Request{Owner: "a", Proto: tcp, Want: wants("10.0.0.2:80", "0.0.0.0", "::"), First: 8080, Last: 8080})
	if err != nil || len(got) != 2 || got[0].Host.Port() != 8080 || got[1].Host.Port() != 8080 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, at := range []string{"127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080"} {
		if l, err := net.Listen("tcp", at); err == nil {
			t.Errorf("%s is still free", at)
			l.Close()
		}
	}
	_, err = table.Reserve(hostport.Request{Owner: "b", Proto: tcp, Want: wants("10.0.0.3:80", "127.0.0.1"), First: 8080})
	if !errors.Is(err, hostport.ErrTaken) || !strings.Contains(err.Error(), "127.0.0.1:8080/tcp") || !strings.Contains(err.Error(), "weft endpoint a") {
		t.Errorf("taken by weft: %v", err)
	}
	if _, err := table.Reserve(hostport.Request{Owner: "b", Proto: udp, Want: wants("10.0.0.3:80", "0.0.0.0"), First: 8080}); err != nil {
		t.Errorf("the same port of UDP: %v", err)
	}
	table.Release("a")
	table.Release("a")
	if _, err := table.Reserve(hostport.Request{Owner: "b", Proto: tcp, Want: wants("10.0.0.3:80", "0.0.0.0", "::"), First: 8080}); err != nil {
		t.Errorf("after the release: %v", err)
	}
	if held := table.Held("b"); len(held) != 3 {
		t.Errorf("held %v", held)
	}
}

// TestForeignSocket names the socket in the way, and holds nothing afterwards.
func TestForeignSocket(t *testing.T) {
	table := newTable(t)
	l, err := net.Listen("tcp6", "[::]:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = table.Reserve(hostport.Request{Owner: "a", Proto: tcp, Want: wants("10.0.0.2:80", "0.0.0.0", "::"), First: 8090, Last: 8090})
	if !errors.Is(err, hostport.ErrTaken) || !strings.Contains(err.Error(), "[::]:8090") || !strings.Contains(err.Error(), "uid 0") {
		t.Errorf("error %v", err)
	}
	if len(table.Held("a")) != 0 {
		t.Error("half of it is held")
	}
	if v4, err := net.Listen("tcp4", "0.0.0.0:8090"); err != nil {
		t.Errorf("the IPv4 half is held: %v", err)
	} else {
		v4.Close()
	}
}

func TestRangesAndRandom(t *testing.T) {
	table := newTable(t)
	seen := map[uint16]bool{}
	for i := range 3 {
		got, err := table.Reserve(hostport.Request{Owner: fmt.Sprint(i), Proto: tcp, Want: wants("10.0.0.2:80", "0.0.0.0", "::"), First: 9000, Last: 9002})
		if err != nil {
			t.Fatal(err)
		}
		seen[got[0].Host.Port()] = true
	}
	if len(seen) != 3 || !seen[9000] || !seen[9002] {
		t.Errorf("ports %v", seen)
	}
	_, err := table.Reserve(hostport.Request{Owner: "x", Proto: tcp, Want: wants("10.0.0.2:80", "0.0.0.0"), First: 9000, Last: 9002})
	if !errors.Is(err, hostport.ErrTaken) || !strings.Contains(err.Error(), "from 9000 to 9002") {
		t.Errorf("full range: %v", err)
	}
	for _, proto := range []uint8{tcp, udp, sctp} {
		got, err := table.Reserve(hostport.Request{Owner: "r", Proto: proto, Want: wants("10.0.0.2:80", "0.0.0.0", "::")})
		if err != nil || len(got) != 2 || got[0].Host.Port() == 0 || got[0].Host.Port() != got[1].Host.Port() {
			t.Errorf("protocol %d: %v, %v", proto, got, err)
		}
	}
}

func TestStrangeAddress(t *testing.T) {
	table := newTable(t)
	_, err := table.Reserve(hostport.Request{Owner: "a", Proto: tcp, Want: wants("10.0.0.2:80", "192.0.2.1"), First: 80})
	if err == nil || !strings.Contains(err.Error(), "192.0.2.1 is not an address of this host") {
		t.Errorf("error %v", err)
	}
}

// TestSCTPBook: without sockets the table itself keeps two apart.
func TestSCTPBook(t *testing.T) {
	table := newTable(t)
	req := hostport.Request{Owner: "a", Proto: sctp, Want: wants("10.0.0.2:80", "0.0.0.0"), First: 7000, Last: 7000}
	if _, err := table.Reserve(req); err != nil {
		t.Fatal(err)
	}
	req.Owner = "b"
	if _, err := table.Reserve(req); !errors.Is(err, hostport.ErrTaken) {
		t.Errorf("error %v", err)
	}
}

// TestProxyTCP carries [::1] to a container with IPv4, half-close included.
func TestProxyTCP(t *testing.T) {
	table := newTable(t)
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, err := io.ReadAll(c) // until the client's half-close
				if err == nil {
					fmt.Fprintf(c, "got %s", all)
				}
			}()
		}
	}()
	_, err = table.Reserve(hostport.Request{Owner: "a", Proto: tcp, Want: wants(server.Addr().String(), "::"), First: 8070})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp6", "[::1]:8070")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || string(answer) != "got hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

// TestProxyUDP keeps two clients apart.
func TestProxyUDP(t *testing.T) {
	table := newTable(t)
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(udpWriter{server, from}, "got %s\n", buf[:n])
		}
	}()
	_, err = table.Reserve(hostport.Request{Owner: "a", Proto: udp, Want: wants(server.LocalAddr().String(), "::"), First: 8071})
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		c, err := net.Dial("udp6", "[::1]:8071")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, word)
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "got "+word+"\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
}

type udpWriter struct {
	net.PacketConn
	to net.Addr
}

// Write sends one datagram.
func (w udpWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }
