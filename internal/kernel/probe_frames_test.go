package kernel

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProbeBuffer: a crowd of answers is not lost.
func TestProbeBuffer(t *testing.T) {
	p := prober{link: Link{Index: 1}}
	if err := p.listen(); err != nil {
		t.Fatal(err)
	}
	defer p.socket.Close()
	if n, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || n < probeBuffer {
		t.Errorf("it holds %d bytes: %v", n, err)
	}
}

// TestProbeLate: what came in time is heard by a process that was kept from it.
func TestProbeLate(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[1])
	first, second := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("10.9.0.8")
	p := prober{
		fd: ends[0], socket: os.NewFile(uintptr(ends[0]), "probe"),
		found: map[netip.Addr]Station{}, open: map[netip.Addr]bool{first: true, second: true, netip.MustParseAddr("10.9.0.9"): true},
	}
	defer p.socket.Close()
	mac := MAC{2, 0, 0, 0, 0, 7}
	for _, a := range []netip.Addr{first, second} {
		if _, err := unix.Write(ends[1], arpAnnouncement(mac[:], a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.hear(t.Context(), time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if len(p.found) != 2 || p.found[first].MAC.String() != mac.String() || p.found[second].MAC.String() != mac.String() {
		t.Errorf("it heard %v", p.found)
	}
}

// TestClaims: what frames say about who has an address.
func TestClaims(t *testing.T) {
	mac, mark := MAC{2, 0, 0, 0, 0, 7}, probeMark("mine")
	four, six := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("fd09::7")
	says := func(why string, frame []byte, want netip.Addr) {
		t.Helper()
		got := claims(frame, mark)
		if !want.IsValid() && len(got) == 0 {
			return
		}
		if len(got) != 1 || got[0].addr != want || got[0].mac.String() != mac.String() {
			t.Errorf("%s: %v, want %s", why, got, want)
		}
	}
	says("a gratuitous ARP", arpAnnouncement(mac[:], four), four)
	says("an unsolicited advertisement", neighborAdvertisement(mac[:], six), six)
	says("another one's ARP probe", arpProbe(mac, probeMark("other"), four), four)
	says("another one's solicitation", solicitation(mac, probeMark("other"), six), six)
	says("our own ARP probe", arpProbe(mac, mark, four), netip.Addr{})
	says("our own solicitation", solicitation(mac, mark, six), netip.Addr{})
	reply := arpAnnouncement(mac[:], four)
	reply[21], reply[41] = 2, 99
	says("an ARP reply", reply, four)
	routed := neighborAdvertisement(mac[:], six)
	routed[21] = 254 // hops left
	says("an advertisement from another line", routed, netip.Addr{})
	for _, whole := range [][]byte{arpAnnouncement(mac[:], four), neighborAdvertisement(mac[:], six), solicitation(mac, mark, six)} {
		for n := range len(whole) - 8 {
			if got := claims(whole[:n], mark); len(got) > 0 && n < 42 {
				t.Errorf("%d bytes of a frame say %v", n, got)
			}
		}
	}
}

// FuzzClaims: no frame ends the program, and none says what is not in it.
func FuzzClaims(f *testing.F) {
	mac, mark := MAC{2, 0, 0, 0, 0, 7}, probeMark("mine")
	f.Add(arpProbe(mac, mark, netip.MustParseAddr("10.9.0.7")))
	f.Add(solicitation(mac, mark, netip.MustParseAddr("fd09::7")))
	f.Add(neighborAdvertisement(mac[:], netip.MustParseAddr("fd09::7")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, c := range claims(frame, mark) {
			if !c.addr.IsValid() || c.addr.IsUnspecified() && len(frame) < 42 || len(c.mac) != 6 {
				t.Errorf("%x says %v", frame, c)
			}
		}
	})
}
