package kerneltest

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// Tap opens a packet socket on a device of a namespace, or of the test's own if ns is
// empty, and closes it with the test. It hears the frames of a protocol (unix.ETH_P_ARP)
// that come in; with unix.ETH_P_ALL, all those that go out as well. It can send whole
// frames. To read waits 5 s at most; unix.MSG_DONTWAIT takes only what is there.
func Tap(tb testing.TB, ns, device string, protocol uint16) int {
	tb.Helper()
	order := protocol<<8 | protocol>>8 // the network's
	fd := -1
	open := func() error {
		card, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(order)); err != nil {
			return err
		}
		tb.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: order, Ifindex: card.Index}); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}
	if err := Within(ns, open); err != nil {
		tb.Fatalf("listen on %s: %v", device, err)
	}
	return fd
}
