"""What the faces inherit: settings, and how a request is made of them."""
