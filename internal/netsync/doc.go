// Package netsync makes one network appear on every host of a cluster.
//
//	a := netsync.New(netsync.Config{Engine: e, Directory: d, Host: h, …})
//	go a.Run(ctx)
//	a.Wake()             // the engine's networks, or the directory, changed
//	a.Networks()         // all networks of the cluster, and how they are here
//
// An agent compares what the engine has with what the directory says, and acts on the
// difference: it tells the directory the name and the whole description of a network
// that a user made here, creates what other hosts have, and removes what was removed
// everywhere. Events only wake the comparison, so none can be missed. What a user
// removed from this host stays away.
//
// Of two networks of one name, the one that got the name in the store is the
// cluster's. The other one takes its place if both are alike, is replaced if nothing
// is on it, and else stays what it is, shown as a conflict.
//
// Nothing happens while the store does not answer or the cluster is frozen. Networks of
// a Swarm are left alone. It programs nothing, and no handler of the engine waits for it.
package netsync
