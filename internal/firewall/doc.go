// Package firewall turns facts about networks and published ports into packet
// filtering and translation, and keeps it in force beside whatever else the
// host runs.
//
//	fw, err := firewall.New(firewall.Config{})
//	err = fw.SetUplinks(ctx, []string{"eth0"})
//	err = fw.AddNetwork(ctx, firewall.Network{
//		ID: id, Bridge: "weft0", ICC: true, Masquerade: true,
//		IPv4: []firewall.Family{{Subnet: subnet}},
//	})
//	err = fw.AddPorts(ctx, ports, open)
//	for range fw.Watch(ctx) {
//		repaired, err := fw.Mend(ctx)
//	}
//
// # How it works
//
// A table, inet weft, exists while there is at least one network. Its rules
// are one constant text (skeleton.nft), loaded once; what is true about networks
// and ports is elements of its sets and maps, and every call changes these in
// one netlink transaction. No rule walk depends on the number of networks, ports
// or containers.
//
// A second table, bridge weft (tunnels.nft), exists while a network has a tunnel and
// a gateway, and works in the same way: it keeps ARP and neighbour discovery about
// the gateway, which every host of an overlay has, out of the tunnel. A kernel that
// has no nf_tables for bridges goes without; Status says so.
//
// A table netdev weft-TUNNEL (shortcuts.nft) for each network with containers both on
// this host and behind its tunnel takes frames between them past the bridge:
// SetShortcuts. Mend and Reset see to it like to the others, but it is not
// among the Facts of a Repair, which come from a journal that knows no other host.
//
// An accept in one nftables chain does not save a packet from a drop in another,
// and the engine's FORWARD policy is usually DROP. So packets that weft lets
// through carry the mark bit MarkAccepted from weft's forward chain to the
// engine's, where one chain (WEFT-FORWARD) with one rule, entered from the top
// of DOCKER-USER, accepts them. The bit is cleared behind it. iptables is
// touched with the first and the last network only, and only in a flavour, nft
// or legacy, whose filter table somebody else has made.
//
// Everything that changes state is idempotent, safe for concurrent use, and
// either done or not done when it returns. An NFT works in the network namespace
// of the thread that made it, whichever goroutine calls it.
//
// A Redirect is something else: a table inside a container's namespace that sends its
// questions about names to weft's resolver there, and that ends with this process.
//
//	var redirects firewall.Redirects
//	r, err := redirects.Open(firewall.Redirection{Namespace: ns, Resolver: …, UDP: …, TCP: …, Pass: …})
//
// # What it does not do
//
// It makes no bridges, sets no sysctl (a published port on 127.0.0.1 needs
// route_localnet on the bridge, which is safe once AddNetwork has returned; with
// br_netfilter, a container that calls its own published port needs hairpin mode
// on its bridge port), reserves no host ports, deletes no conntrack entries, and
// never serves ::1. It does not touch chains of the engine other than by its one
// jump. It speaks to firewalld only if Config.Zones says so: see [Firewalld].
package firewall
