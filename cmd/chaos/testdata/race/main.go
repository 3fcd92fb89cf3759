// Command race has a data race, for the test of what finds one.
package main

import "fmt"

func main() {
	shared, done := 0, make(chan struct{})
	go func() {
		shared++
		close(done)
	}()
	shared++
	<-done
	fmt.Println("it went on", shared)
}
