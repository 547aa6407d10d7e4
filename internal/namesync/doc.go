// Package namesync brings the names of containers to where they are answered.
//
//	a := namesync.New(namesync.Config{Engine: e, Directory: d, Host: h, Book: book, Service: s, …})
//	go a.Run(ctx)
//	a.Container(id)      // the engine's event: something happened to a container
//	a.Network(uuid)      // the directory's: something changed on a network
//	a.Wake()             // an endpoint came or went
//
// An agent looks at the containers of this host whenever the engine says that something
// happened to one, tells the directory what they call each other, fills the book of
// package names with what all hosts tell, and says whom the resolver attends to: every
// container that is on a network of the cluster. What follows from the facts is pure
// (plan); the agent does what is new of it. Events only wake it, and once a minute it
// asks for the list of containers, so that a lost event is made up for.
//
// A container has, on each of its networks, its name, the aliases that it has there, its
// short id and its host name. Compose's services are aliases.
//
// The package answers no question and waits in no handler. While the engine does not
// answer, names stay what they were. Networks of a Swarm are the engine's own.
package namesync
