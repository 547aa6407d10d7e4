// Package plugin speaks Docker's remote plugin protocol: one HTTP handler for
// a NetworkDriver and an IpamDriver that share a socket, the types of every
// request and answer, and the listeners the engine connects to.
//
// A caller implements [NetworkDriver] and [IPAMDriver] and serves them:
//
//	l, err := plugin.ActivationListener() // systemd's socket, if there is one
//	if err == nil && l == nil {
//		l, err = plugin.Listen(ctx, "/run/docker/plugins/weft.sock")
//	}
//	if err != nil {
//		return err
//	}
//	h := plugin.New(plugin.Config{Network: networks, IPAM: addresses, Logger: log})
//	return h.Serve(ctx, l)
//
// What a driver can rely on: a request arrives decoded and checked (prefixes,
// addresses, ports, MAC addresses), its context carries a deadline and is not
// cancelled when the engine hangs up, a panic becomes an error answer, and an
// error with a Hint method has its hint shown to the user. Calls run
// concurrently, also for one network.
//
// The package was written against engines 20.10 to 29.7. Fields of a request
// that it does not know are accepted; options that it does not know are kept in
// a field named Other.
//
// What the package does not do: it keeps no state and knows no network; it does
// not make calls idempotent (the engine repeats Leave, DeleteEndpoint,
// RevokeExternalConnectivity and DeleteNetwork, and sends them for unknown ids);
// it does not serve TCP; it does not write plugin spec files. The HTTP server
// itself belongs to go-plugins-helpers and takes no header or idle timeout, so
// the socket must be reachable by root only, which [Listen] ensures.
package plugin
